#pragma once

// From sums to the statistics of a normalization.

#include <cuda_runtime.h>

namespace sidechannel::kernels {

// Mean and sum of squared deviations of one channel over one tile's positions.
struct Moments {
  double mean;
  double m2;
};

namespace device {

// 1 / sqrt(variance + epsilon). NaN for an infinite variance, of which a sum has left T's range: it
// would normalize every x to 0 without a word.
template <class T>
__device__ __forceinline__ T rstd_of(T variance, T epsilon) {
  const T shown = variance < 0 ? T(0) : variance + (variance - variance);
  return 1 / sqrt(shown + epsilon);
}

// Whether a mean is so close to zero, in deviations, that x is better not centred by it. Of sets
// that have a variance beside epsilon: in a constant set x - mean is exactly 0, and stays it.
template <class T>
__device__ __forceinline__ bool near_zero(T mean, T rstd, T epsilon) {
  return mean * mean * (rstd * rstd) < 2 && epsilon * (rstd * rstd) < T(0.5);
}

}  // namespace device
}  // namespace sidechannel::kernels
