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

// Of a network's pass over `batch` sequences of length l; a U-Net's gradients lie beside its
// activations, as its skips wait for theirs.
double activations(const LocalizationSettings& s, double batch, double l, bool gradients);

// Activations of a step over `batch` sequences of length l: what convolutions and norms make, three
// statistics of each set, and where gradients come, three of a layer's at a time.
double activations(const LocalizerConfig& network, double batch, double l, bool gradients) {
  const double h = d(network.channels), layers = d(network.depth) - 2;
  const std::int64_t positions = network.norm_options().positions_per_set;
  const double sets = positions == 0 ? 1 : l / d(positions);
  // What circular convolutions read lies there once more, and is longer.
  const bool circular = network.padding == Padding::kCircular && network.kernel_size > 1;
  const double padded = circular ? batch * (l + 2 * d(network.kernel_size / 2)) : 0;
  return batch * l * (2 + h * (1 + 2 * layers) + (gradients ? 3 * h : 0)) +
         padded * (1 + h * (1 + layers) + (gradients ? h : 0)) + 3 * batch * sets * h * layers;
}

double activations(const LocalizationSettings& s, double batch, double l, bool gradients) {
  if (s.is_localizer()) return activations(s.localizer(), batch, l, gradients);
  return batch * (2 * l + unet_size(s.unet(), l).activations * (gradients ? 2 : 1));
}

}  // namespace

MemoryNeed memory_of(const LocalizationSettings& s, LocalizationPhases phases) {
  const double h = d(s.channels);
  const LocalizerConfig network = s.localizer();
  const double norm = network.norm == NormKind::kNone       ? 0
                      : network.has_population_statistics() ? 4
                                                            : 2;
  const double parameters = s.is_unet() ? unet_size(s.unet(), d(s.length)).parameters
                                        : stack_parameters(d(s.depth), h, d(s.kernel_size), norm);
  const double longest =
      s.curriculum_iterations > 0 ? std::max(d(s.length), d(s.curriculum_length)) : d(s.length);
  const bool all = phases == LocalizationPhases::kAll;
  MemoryNeed need = {{kept_parameters(kWeights, kNetwork, parameters)}};
  if (all || phases == LocalizationPhases::kTrain) {
    need.push_back({trained_parameters("the network's weights in training", kNetwork, parameters),
                    arena_memory("the activations of a training step",
                                 "--batch, --length, --channels or --depth",
                                 activations(s, d(s.batch), longest, true))});
  }
  const double probes = s.probes == "all" ? d(s.depth) - 1 : s.probes == "last" ? 1 : 0;
  const double probe = parameters_of_probe(h, d(s.probe_width));
  if (probes > 0 && phases != LocalizationPhases::kTrain) {
    const double positions = d(s.probe_batch) * d(s.length);
    const double network_alone = activations(s, d(s.probe_batch), d(s.length), false);
    // A GPU may compute all probes at once, and keeps a hidden layer and two masks of each: memory
    // that is set aside for it elsewhere, too.
    MemoryPart step = arena_memory("the activations of a step of the probes' training",
                                   "--probe-batch, --length, --channels, --depth or --probe-width",
                                   network_alone + positions * (4 * d(s.probe_width) + h + 2));
    const double at_once =
        network_alone + probes * (positions + 128) * (d(s.probe_width) * (1 + 2.0 / 32) + 3);
    step.reserve = std::max(step.reserve, 2 * kFloat * at_once - step.device);
    need.push_back({kept_parameters(kWeights, kNetwork, parameters),
                    trained_parameters("the probes' weights in training",
                                       "--probe-width, --channels or --depth", probes * probe),
                    step});
  }
  if (all || phases == LocalizationPhases::kMap) {
    constexpr double kMapBatch = 32;
    const double batch = s.norm == "batch" ? kMapBatch + d(s.samples_per_set) : kMapBatch;
    const double rows = (probes + 1) * d(s.length);
    need.push_back(
        {kept_parameters(kWeights, kNetwork, parameters),
         kept_parameters("the probes' weights", "--probe-width, --channels or --depth",
                         probes * probe),
         arena_memory("the activations of a step of the map",
                      "--length, --channels, --depth or --probe-width",
                      activations(s, batch, d(s.length), false) +
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
  const double h = d(network.channels);
  const double parameters = stack_parameters(d(network.depth), h, d(network.kernel_size), 4);
  constexpr const char* kInput = "the sequences in --input";
  return {
      {kept_parameters(kWeights, kNetwork, parameters),
       arena_memory("the activations of all sequences", kInput, activations(network, n, l, false)),
       {"the sequences", kInput, 2 * kFloat * n * l, 0, 4 * kFloat * n * l}}};
}

}  // namespace sidechannel::experiments
