#pragma once

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
// NaN where SciPy's ttest_ind says so: for samples of fewer than two draws or with draws that are
// not finite, and for equal means without any variance, as of a network that answers a constant
// input. Without variance, means that differ have p = 0. Variances that are nothing but the
// rounding of f32 predictions count as zero, means that agree to it as equal.
double welch_p_value(const SampleMoments& a, const SampleMoments& b);

// For each index i, the largest p-value of its tests against all j != i (Definition 2.3), or NaN
// where one of them is: index i is localized when this is below the threshold, which NaN never is.
// 0 for a sequence of one index, which has no rivals.
std::vector<double> largest_p_values(std::span<const SampleMoments> moments);

}  // namespace sidechannel::experiments
