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

// Activations of a step over `batch` sequences of length l: what convolutions and norms make, three
// statistics of each set, and where gradients come, three of a layer's at a time.
double activations(double batch, double l, double depth, double h, bool gradients) {
  return batch * l * (2 + h * (1 + 2 * (depth - 2)) + (gradients ? 3 * h : 0)) +
         3 * batch * h * (depth - 2);
}

}  // namespace

MemoryNeed memory_of(const LocalizationSettings& s, LocalizationPhases phases) {
  const double h = d(s.channels);
  const double norm = s.norm == "none" ? 0 : s.norm == "batch" ? 4 : 2;
  const double parameters = stack_parameters(d(s.depth), h, d(s.kernel_size), norm);
  const double longest =
      s.curriculum_iterations > 0 ? std::max(d(s.length), d(s.curriculum_length)) : d(s.length);
  const bool all = phases == LocalizationPhases::kAll;
  MemoryNeed need = {{kept_parameters(kWeights, kNetwork, parameters)}};
  if (all || phases == LocalizationPhases::kTrain) {
    need.push_back({trained_parameters("the network's weights in training", kNetwork, parameters),
                    arena_memory("the activations of a training step",
                                 "--batch, --length, --channels or --depth",
                                 activations(d(s.batch), longest, d(s.depth), h, true))});
  }
  const double probes = s.probes == "all" ? d(s.depth) - 1 : s.probes == "last" ? 1 : 0;
  const double probe = parameters_of_probe(h, d(s.probe_width));
  if (probes > 0 && phases != LocalizationPhases::kTrain) {
    const double positions = d(s.probe_batch) * d(s.length);
    need.push_back({kept_parameters(kWeights, kNetwork, parameters),
                    trained_parameters("the probes' weights in training",
                                       "--probe-width, --channels or --depth", probes * probe),
                    arena_memory("the activations of a step of the probes' training",
                                 "--probe-batch, --length, --channels, --depth or --probe-width",
                                 activations(d(s.probe_batch), d(s.length), d(s.depth), h, false) +
                                     positions * (4 * d(s.probe_width) + h + 2))});
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
                      activations(batch, d(s.length), d(s.depth), h, false) +
                          batch * d(s.length) * (probes > 0 ? 2 * d(s.probe_width) + 1 : 0)),
         {"the map", "--length or --depth", 2 * kDouble * rows, 0,
          6 * kDouble * rows + 2 * kMapBatch * kFloat * d(s.length)}});
  }
  return need;
}

MemoryNeed memory_of(const LocalizerConfig& network, double n, double l) {
  const double h = d(network.channels);
  const double parameters = stack_parameters(d(network.depth), h, d(network.kernel_size), 4);
  constexpr const char* kInput = "the sequences in --input";
  return {{kept_parameters(kWeights, kNetwork, parameters),
           arena_memory("the activations of all sequences", kInput,
                        activations(n, l, d(network.depth), h, false)),
           {"the sequences", kInput, 2 * kFloat * n * l, 0, 4 * kFloat * n * l}}};
}

}  // namespace sidechannel::experiments
