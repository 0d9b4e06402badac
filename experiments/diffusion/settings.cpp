#include "experiments/diffusion/settings.h"

#include "experiments/leak/memory.h"
#include "experiments/run/unet_settings.h"

namespace sidechannel::experiments {

void DiffusionSettings::check() const {
  check_domains(all_settings<DiffusionSettings>(), *this);
  world().check();
  const TemporalUnetConfig unet = network();
  unet.check(kUnetFlags);
  require(horizon() % unet.stride() == 0,
          fmt::format("--corridors {}, --steps-per-corridor {}: plans of {} positions, expected a "
                      "multiple of {} for --multipliers {}",
                      corridors, steps_per_corridor, horizon(), unet.stride(), multipliers));
}

CorridorsConfig DiffusionSettings::world() const {
  return {.side = side,
          .corridors = corridors,
          .steps_per_corridor = steps_per_corridor,
          .walks = walks,
          .walk_corridors = walk_corridors,
          .held_out = held_out};
}

TemporalUnetConfig DiffusionSettings::network() const {
  TemporalUnetConfig config;
  config.transition = 2;
  config.dim = dim;
  config.multipliers = multipliers_from(multipliers);
  config.kernel_size = kernel_size;
  config.steps = steps;
  config.norm = norm_kind_from(norm);
  config.groups = groups;
  return config;
}

MemoryNeed memory_of(const DiffusionSettings& s) {
  constexpr double kFloat = 4;
  constexpr const char* kNetwork = "--dim, --multipliers or --kernel-size";
  const double l = d(s.horizon());
  const TemporalUnetConfig network = s.network();
  const double parameters = unet_size(network, l).parameters;
  // Noise and the steps between x and y, beside what the network makes.
  const auto of_diffusion = [&](double samples) { return 6 * l * samples; };
  const double walks = d(s.walks) * d(s.walk_corridors) * d(s.steps_per_corridor);
  // x and y, and the numbers of the windows, one from each junction.
  const double windows = d(s.walks) * d(s.walk_corridors);
  const MemoryPart data = {"the walks", "--walks or --walk-corridors",
                           kFloat * (2 * walks + windows), 0,
                           2 * kFloat * walks + (8 + kFloat) * windows};
  const MemoryPart steps = {"the embedding of the diffusion's steps", "--steps or --dim",
                            kFloat * d(s.steps) * d(s.dim), 0, 3 * kFloat * d(s.steps) * d(s.dim)};
  const double plans = 2 * d(s.pairs) * d(s.plans);
  // The longest horizon that the leak is asked at, without attributing it to norms.
  const LeakSize asked = {.dtype = DType::kF32,
                          .inputs = s.leak_inputs,
                          .length = 2 * s.horizon(),
                          .channels = 2,
                          .rows = 2 * s.leak_outputs,
                          .given_model = true};
  MemoryNeed need = memory_of(network, asked);
  for (std::vector<MemoryPart>& phase : need) phase.push_back(data);
  need.push_back(
      {trained_parameters("the network's weights in training", kNetwork, parameters),
       kept_parameters("the average of the weights", kNetwork, parameters),
       arena_memory("the activations of a training step", "--batch or --corridors",
                    activations(network, d(s.batch), l, true) + of_diffusion(d(s.batch))),
       steps, data});
  need.push_back({kept_parameters("the network's weights", kNetwork, parameters),
                  arena_memory("the activations of all plans", "--pairs or --plans",
                               activations(network, plans, l, false) + of_diffusion(plans)),
                  steps, data});
  return need;
}

}  // namespace sidechannel::experiments
