// Mean squared error and its gradient:
//
//   loss = sum over i < size of (y[i] - target[i % target_size])^2 / size, summed in double
//   dy[i] = dloss * 2 / size * (y[i] - target[i % target_size])
//
// of each set, each term times weights[i % weights_size] where there are weights; as target and
// weights divide a set, the gradient counts i on through all of them.
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
  std::int64_t size;
  Index target_size;

  __device__ __forceinline__ double operator()(unsigned set, std::int64_t i) const {
    const double error = static_cast<double>(y[set * size + i]) -
                         static_cast<double>(target[static_cast<Index>(i) % target_size]);
    return error * error;
  }
};

template <class Index>
struct WeightedSquaredError {
  SquaredError<Index> squared;
  const float* weights;
  Index weights_size;

  __device__ __forceinline__ double operator()(unsigned set, std::int64_t i) const {
    return static_cast<double>(weights[static_cast<Index>(i) % weights_size]) * squared(set, i);
  }
};

struct StoreMean {
  double size;
  float* loss;

  __device__ __forceinline__ void operator()(unsigned set, double sum) const {
    loss[set] = static_cast<float>(sum / size);
  }
};

struct Gradient {
  const float* target;
  MseDims dims;
  const float* dloss;

  __device__ __forceinline__ float operator()(std::int64_t i, float y) const {
    const float own = dims.sets == 1 ? *dloss : dloss[i / dims.size];
    return own * 2.0f / static_cast<float>(dims.size) * (y - target[i % dims.target_size]);
  }
};

struct WeightedGradient {
  Gradient plain;
  const float* weights;

  __device__ __forceinline__ float operator()(std::int64_t i, float y) const {
    return plain(i, y) * weights[i % plain.dims.weights_size];
  }
};

}  // namespace

void run(CudaQueue& queue, const MseForward<float>& call) {
  const auto [size, target_size, sets, weights_size] = call.dims;
  const StoreMean mean{size > 0 ? static_cast<double>(size) : 1.0, call.loss};
  const auto sum = [&, size = size, sets = sets, period = weights_size](auto divisor) {
    using Index = decltype(divisor);
    const SquaredError<Index> squared{call.y, call.target, size, divisor};
    if (!call.weights) return blocked_sum(queue, "mse_forward", size, squared, mean, sets);
    blocked_sum(queue, "mse_forward", size,
                WeightedSquaredError<Index>{squared, call.weights, static_cast<Index>(period)},
                mean, sets);
  };
  constexpr std::int64_t kMost = std::numeric_limits<std::uint32_t>::max();
  if (std::max(size, target_size) > kMost) return sum(target_size);
  sum(static_cast<std::uint32_t>(target_size));
}

void run(CudaQueue& queue, const MseBackward<float>& call) {
  if (!call.dy.data) return;
  const std::int64_t size = call.dims.size * call.dims.sets;
  const Gradient plain{call.target, call.dims, call.dloss};
  if (!call.weights) return map(queue, "mse_backward", size, plain, call.dy, call.y);
  map(queue, "mse_backward", size, WeightedGradient{plain, call.weights}, call.dy, call.y);
}

}  // namespace sidechannel::kernels
