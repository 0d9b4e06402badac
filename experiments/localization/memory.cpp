#include "experiments/localization/memory.h"

#include <algorithm>

namespace sidechannel::experiments {
namespace {

constexpr double kFloat = 4;  // bytes
constexpr double kDouble = 8;
constexpr const char* kWeights = "the network's weights";
constexpr const char* kNetwork = "--channels, --depth or --kernel-size";

double parameters_of_probe(double h, double width) {
  return h * width + width + width * width + width + width + 1;
}

double pass_of(const LocalizationSettings& s, double batch, double l, bool gradients) {
  return s.is_unet() ? activations(s.unet(), batch, l, gradients)
                     : activations(s.localizer(), batch, l, gradients);
}

}  // namespace

MemoryNeed memory_of(const LocalizationSettings& s, LocalizationPhases phases) {
  const double h = d(s.channels);
  const double parameters =
      s.is_unet() ? unet_size(s.unet(), d(s.length)).parameters : parameters_of(s.localizer());
  const double longest =
      s.curriculum_iterations > 0 ? std::max(d(s.length), d(s.curriculum_length)) : d(s.length);
  const bool all = phases == LocalizationPhases::kAll;
  const char* smaller = s.is_unet() ? "--channels, --multipliers or --kernel-size" : kNetwork;
  MemoryNeed need = {{kept_parameters(kWeights, smaller, parameters)}};
  if (all || phases == LocalizationPhases::kTrain) {
    need.push_back({trained_parameters("the network's weights in training", smaller, parameters),
                    arena_memory("the activations of a training step",
                                 s.is_unet() ? "--batch, --length, --channels or --multipliers"
                                             : "--batch, --length, --channels or --depth",
                                 pass_of(s, d(s.batch), longest, true))});
  }
  const double probes = s.probes == "all" ? d(s.depth) - 1 : s.probes == "last" ? 1 : 0;
  const double probe = parameters_of_probe(h, d(s.probe_width));
  if (probes > 0 && phases != LocalizationPhases::kTrain) {
    const double positions = d(s.probe_batch) * d(s.length);
    const double network_alone = pass_of(s, d(s.probe_batch), d(s.length), false);
    // A GPU may compute all probes at once, and keeps a hidden layer and two masks of each: memory
    // that is set aside for it elsewhere, too.
    MemoryPart step = arena_memory("the activations of a step of the probes' training",
                                   "--probe-batch, --length, --channels, --depth or --probe-width",
                                   network_alone + positions * (4 * d(s.probe_width) + h + 2));
    const double at_once =
        network_alone + probes * (positions + 128) * (d(s.probe_width) * (1 + 2.0 / 32) + 3);
    step.reserve = std::max(step.reserve, 2 * kFloat * at_once - step.device);
    need.push_back({kept_parameters(kWeights, smaller, parameters),
                    trained_parameters("the probes' weights in training",
                                       "--probe-width, --channels or --depth", probes * probe),
                    step});
  }
  if (all || phases == LocalizationPhases::kMap) {
    constexpr double kMapBatch = 32;
    const double batch = s.norm == "batch" ? kMapBatch + d(s.samples_per_set) : kMapBatch;
    const double rows = (probes + 1) * d(s.length);
    need.push_back(
        {kept_parameters(kWeights, smaller, parameters),
         kept_parameters("the probes' weights", "--probe-width, --channels or --depth",
                         probes * probe),
         arena_memory("the activations of a step of the map",
                      "--length, --channels, --depth or --probe-width",
                      pass_of(s, batch, d(s.length), false) +
                          batch * d(s.length) * (probes > 0 ? 2 * d(s.probe_width) + 1 : 0)),
         {"the map", "--length or --depth", 2 * kDouble * rows, 0,
          6 * kDouble * rows + 2 * kMapBatch * kFloat * d(s.length)}});
  }
  // Each phase has a source of its own.
  const double waves = s.has_rank() ? kFloat * d(s.rank) * longest : 0;
  for (MemoryPhase& phase : need) {
    phase.push_back({"the waves of the input", "--rank or --length", waves, 0, waves});
  }
  return need;
}

MemoryNeed memory_of(const LocalizerConfig& network, double n, double l) {
  constexpr const char* kInput = "the sequences in --input";
  return {
      {kept_parameters(kWeights, kNetwork, parameters_of(network)),
       arena_memory("the activations of all sequences", kInput, activations(network, n, l, false)),
       {"the sequences", kInput, 2 * kFloat * n * l, 0, 4 * kFloat * n * l}}};
}

}  // namespace sidechannel::experiments
