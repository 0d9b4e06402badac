#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace sidechannel::experiments {

// Mean and sample variance of `count` draws.
struct SampleMoments {
  double mean;
  double variance;
  double count;
};

// Two-sided p-value of Welch's t-test (Welch 1947) for equal means.
//
// Variances that are nothing but the rounding of f32 predictions count as zero. With both variances
// zero, as for a network that answers a constant input, the statistic is defined as 0 (p = 1) where
// the means agree to rounding, and as infinite (p = 0) where they do not.
double welch_p_value(const SampleMoments& a, const SampleMoments& b);

// For each index i, the largest p-value of its tests against all j != i (Definition 2.3): index i
// is localized when this is below the threshold. 0 for a sequence of one index, which has no
// rivals.
std::vector<double> largest_p_values(std::span<const SampleMoments> moments);

}  // namespace sidechannel::experiments
