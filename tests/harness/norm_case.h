#pragma once

#include <string>
#include <vector>

#include "kernels/norm_act.h"
#include "tests/harness/op_check.h"

namespace sidechannel::harness {

// A normalization to test: its dims, and contents that stay clear of the ReLU's kink.
struct NormCase {
  kernels::NormDims dims;
  std::vector<double> x, gamma, beta, dy;
  std::vector<double> population_mean = {}, population_variance = {};  // [channels]

  std::string text() const;
  // The number of the set of statistics (per channel: [groups, channels]) that x[i] belongs to.
  std::size_t statistic_of(std::size_t i) const;
  std::size_t channel_of(std::size_t i) const {
    return i % static_cast<std::size_t>(dims.channels);
  }
  double population_scale(std::size_t channel) const {
    return 1 / std::sqrt(population_variance[channel] + dims.epsilon);
  }
};

// Shapes for every kind of normalization: (channels, samples) per set for instance, group, layer,
// batch (whole, and in groups) and pack norm, and one that mixes both; with one position, one
// channel, odd sizes and primes, and channels that do not fill vectors of 4, 8, 16 or 32.
std::vector<kernels::NormDims> norm_dims(int count);
// Larger ones: several tasks and vectors.
std::vector<kernels::NormDims> large_norm_dims();
std::vector<kernels::NormDims> all_norm_dims();  // 140 small ones and the large ones
// Sets that are not centred, of the same kinds: so many small ones, and large ones.
std::vector<kernels::NormDims> rms_dims(int count);
std::vector<kernels::NormDims> large_rms_dims();

// Random contents for these dims, rounded to T; each channel's beta is clear_of its values.
template <class T>
NormCase make_norm_case(const kernels::NormDims& dims, std::uint64_t seed);
// And a population's means and variances, with values moved away from the kink that they come near.
template <class T>
NormCase make_population(const kernels::NormDims& dims, std::uint64_t seed);

// Mean and 1 / sqrt(variance + epsilon) of every set, per channel, straight from the definition: of
// sets that are not centred, 0 and the mean of x^2.
struct SetStatistics {
  std::vector<double> mean, variance, rstd;  // [groups, channels]
  std::vector<double> mean_magnitude;        // of |x|
  std::vector<double> deviation_magnitude;   // the mean of |x - mean|
};
SetStatistics statistics_of(const NormCase& c);

}  // namespace sidechannel::harness
