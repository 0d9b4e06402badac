#pragma once

#include <cstdint>

namespace sidechannel {

// What random numbers are for. Numbers of different streams are independent of each other.
enum class Stream : std::uint32_t {
  kWeights = 0,          // initial parameters of the network
  kNoise = 1,            // inputs of training
  kProbeWeights = 2,     // initial parameters of the probes
  kProbeNoise = 3,       // inputs of the probes' training
  kEvaluationNoise = 4,  // inputs of localization maps
};

// The generator of a run: a seed and the step that it stands at.
struct Random {
  std::uint64_t seed = 0;
  std::uint32_t step = 0;
};

}  // namespace sidechannel
