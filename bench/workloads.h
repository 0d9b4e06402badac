#pragma once

// What is measured, named in one place: training steps as the experiments make them, and kernels at
// the shapes of these steps. Every number is the preset's.

#include <cstdint>
#include <string_view>

#include "experiments/localization/settings.h"
#include "experiments/overlap/settings.h"
#include "models/localizer.h"

namespace sidechannel::bench {

struct Workload {
  const char* name;  // in benchmarks, results and docs
  std::string_view experiment;
  const char* preset;
  const char* norm;
};

inline constexpr Workload kWorkloads[] = {
    {"demo", "localization", "demo", "instance"},
    {"paper", "localization", "paper", "instance"},
    {"paper-batch-norm", "localization", "paper", "batch"},  // in small groups, as Figure 4 trains
    {"overlap", "overlap", "paper", "pack"},                 // Figure 3
};

// Calls f with a workload's settings.
template <class F>
decltype(auto) with_settings(const Workload& workload, const F& f) {
  using namespace experiments;
  if (workload.experiment == OverlapSettings::kExperiment) {
    return f(settings_from_preset<OverlapSettings>(workload.preset));
  }
  return f(settings_from_preset<LocalizationSettings>(workload.preset, workload.norm));
}

// Of one training step.
struct Sizes {
  std::int64_t sequences;
  std::int64_t length;
  LocalizerConfig network;
};
inline Sizes sizes_of(const experiments::LocalizationSettings& s) {
  return {s.batch, s.length, s.localizer()};
}
inline Sizes sizes_of(const experiments::OverlapSettings& s) {
  return {2 * s.batch, s.length(), s.network()};
}

}  // namespace sidechannel::bench
