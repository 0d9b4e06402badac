// Mean squared error and its gradient:
//
//   loss = sum over i < size of (y[i] - target[i % target_size])^2 / size, summed in double
//   dy[i] = dloss * 2 / size * (y[i] - target[i % target_size])
//
// The order of the sum is told in blocked_sum.cuh, how threads map to elements in map.cuh.

#include "kernels/mse.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cuda/blocked_sum.cuh"
#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

// Index: 32 bits where they are enough, whose remainder is a few instructions without a branch.
template <class Index>
struct SquaredError {
  const float* y;
  const float* target;
  Index target_size;

  __device__ __forceinline__ double operator()(std::int64_t i) const {
    const double error = static_cast<double>(y[i]) -
                         static_cast<double>(target[static_cast<Index>(i) % target_size]);
    return error * error;
  }
};

struct StoreMean {
  double size;
  float* loss;

  __device__ __forceinline__ void operator()(unsigned, double sum) const {
    *loss = static_cast<float>(sum / size);
  }
};

struct Gradient {
  const float* target;
  std::int64_t target_size;
  const float* dloss;
  float size;

  __device__ __forceinline__ float operator()(std::int64_t i, float y) const {
    return *dloss * 2.0f / size * (y - target[i % target_size]);
  }
};

}  // namespace

void mse_forward(CudaQueue& queue, const MseDims& dims, const float* y, const float* target,
                 float* loss) {
  const StoreMean mean{static_cast<double>(dims.size), loss};
  if (std::max(dims.size, dims.target_size) <= std::numeric_limits<std::uint32_t>::max()) {
    const auto target_size = static_cast<std::uint32_t>(dims.target_size);
    blocked_sum(queue, "mse_forward", dims.size,
                SquaredError<std::uint32_t>{y, target, target_size}, mean);
  } else {
    blocked_sum(queue, "mse_forward", dims.size,
                SquaredError<std::int64_t>{y, target, dims.target_size}, mean);
  }
}

void mse_backward(CudaQueue& queue, const MseDims& dims, const float* y, const float* target,
                  const float* dloss, GradOut<float> dy) {
  if (!dy.data) return;
  map(queue, "mse_backward", dims.size,
      Gradient{target, dims.target_size, dloss, static_cast<float>(dims.size)}, dy, y);
}

}  // namespace sidechannel::kernels
