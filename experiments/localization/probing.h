#pragma once

#include <memory>
#include <vector>

#include "experiments/localization/settings.h"
#include "experiments/run/run_folder.h"
#include "models/network.h"
#include "models/probe.h"

namespace sidechannel::experiments {

inline constexpr const char* kProbesFile = "probes.safetensors";
inline constexpr const char* kProbesCheckpoint = "probes_checkpoint.safetensors";

// The probes of a network, one for each probed layer i of its hidden activations z(1) .. z(d-1).
// Parameters: layers.{i}.0.*, layers.{i}.1.*, layers.{i}.2.*
class Probes {
 public:
  Probes(const LocalizationSettings& settings, const Device& device);
  std::size_t size() const { return probes_.size(); }
  // From probe `first` on, of all hidden activations of a network, [count, N L]: the answers of as
  // many probes as the device computes at once.
  Var answers(std::size_t first, const std::vector<Var>& hidden) const;
  ParameterList& parameters() { return *parameters_; }

 private:
  std::unique_ptr<ParameterList> parameters_;
  std::vector<std::int64_t> layers_;  // i of each
  std::vector<Probe> probes_;
};

// Trains all probes on the activations of the frozen network (Section 2.1, Appendix E): one
// forward pass feeds them all. Writes probes.safetensors; continues where an earlier call stopped.
// Returns the seconds taken.
double train_probes(const LocalizationSettings& settings, const Network& network, Probes& probes,
                    RunFolder& folder);

// Draws fresh sequences, and for every layer and index decides whether it is localized (Definition
// 2.3). Writes localized.npy [d, l] bool (row i - 1 is the probe on z(i), the last row the
// network's own output), p_max.npy [d, l] (the largest p-value of an index against all others),
// layer_mean.npy and layer_variance.npy [d, l] (what they were computed from), predictions_mean.npy
// [l] and predictions_sample.npy [n, l] of the network's output. Layers without a probe have no
// row. Returns the seconds taken.
double make_map(const LocalizationSettings& settings, const Network& network, Probes& probes,
                RunFolder& folder);

// summary.json from a finished map.
Json summarize(const LocalizationSettings& settings, RunFolder& folder, double seconds);

}  // namespace sidechannel::experiments
