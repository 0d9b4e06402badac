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

// Index: 32 bits where they are enough, whose remainder takes a few instructions.
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

void run(CudaQueue& queue, const MseForward<float>& call) {
  const std::int64_t size = call.dims.size, target_size = call.dims.target_size;
  const StoreMean mean{size > 0 ? static_cast<double>(size) : 1.0, call.loss};
  const auto sum = [&](auto divisor) {
    blocked_sum(queue, "mse_forward", size,
                SquaredError<decltype(divisor)>{call.y, call.target, divisor}, mean);
  };
  constexpr std::int64_t kMost = std::numeric_limits<std::uint32_t>::max();
  if (std::max(size, target_size) > kMost) return sum(target_size);
  sum(static_cast<std::uint32_t>(target_size));
}

void run(CudaQueue& queue, const MseBackward<float>& call) {
  if (!call.dy.data) return;
  const auto [size, target_size] = call.dims;
  map(queue, "mse_backward", size,
      Gradient{call.target, target_size, call.dloss, static_cast<float>(size)}, call.dy, call.y);
}

}  // namespace sidechannel::kernels
