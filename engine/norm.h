#pragma once

#include <cstdint>

#include "engine/tensor.h"
#include "kernels/activation.h"

namespace sidechannel {

using kernels::Activation;

// Averages of a normalization's statistics over training, [C] each, for evaluation without the
// batch's own.
struct RunningStatistics {
  Tensor mean;
  Tensor variance;
  double momentum = 0.1;
};

// Statistics that a normalization takes for those of its values, [C] each: a constant, through
// which nothing is heard.
struct FixedStatistics {
  Tensor mean;
  Tensor variance;
};

// Which values share a mean and a variance (the sets S_i of the paper's Appendix A), what follows
// the normalization, and what gradients pass through on the way back.
struct NormOptions {
  std::int64_t channels_per_set = 1;
  std::int64_t samples_per_set = 1;
  double epsilon = 1e-5;  // under the root
  Activation activation = Activation::kRelu;
  RunningStatistics* update = nullptr;  // moved towards the batch's statistics, where given
  std::int64_t positions_per_set = 0;   // neighbouring ones, with one sample a set; 0: all
  bool centred = true;  // otherwise the mean counts as 0, and the variance is the mean of x^2: RMS
  // Otherwise a constant on the way back, as by PyTorch's detach(). Without both, dx is 0 where dy
  // is.
  bool through_mean = true;
  bool through_variance = true;
};

}  // namespace sidechannel
