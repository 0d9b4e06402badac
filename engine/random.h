#pragma once

#include <cstdint>

#include "engine/device_value.h"
#include "kernels/random.h"

namespace sidechannel {

// What random numbers are for. Numbers of different streams are independent of each other; a
// program gives names to any others: constexpr Stream kMine{2}.
enum class Stream : std::uint32_t {
  kWeights = 0,  // initial parameters
  kNoise = 1,    // inputs of training
};

// The generator of a run: a seed, and the step and the sample that it stands at. These counters lie
// on the device, so that a step that draws and advances can repeat itself without the host.
class Random {
 public:
  // Stands at step 0, sample 0.
  Random(const Device& device, std::uint64_t seed) : device_(device), seed_(seed), at_(device) {}

  std::uint64_t seed() const { return seed_; }
  const kernels::RandomPosition* position() const { return at_.data(); }

  void seek(std::uint32_t step, std::uint32_t first_sample = 0) { at_.set({step, first_sample}); }
  // Part of a step that repeats itself.
  void advance(std::uint32_t steps, std::uint32_t samples = 0);

 private:
  Device device_;
  std::uint64_t seed_;
  DeviceValue<kernels::RandomPosition> at_;
};

// The cosine and the sine of 2 pi turns, for turns from 0 to 1: the same bits on every machine, as
// random numbers are.
struct CosSin {
  float cosine, sine;
};
CosSin cos_sin_of_turns(float turns);

}  // namespace sidechannel
