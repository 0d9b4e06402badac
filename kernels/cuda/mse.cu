// Mean squared error and its gradient:
//
//   loss = sum over i < size of (y[i] - target[i % target_size])^2 / size, summed in double
//   dy[i] = dloss * 2 / size * (y[i] - target[i % target_size])
//
// The order of the sum is told in blocked_sum.cuh, how threads map to elements in map.cuh.

#include "kernels/mse.h"

#include "kernels/cuda/blocked_sum.cuh"
#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

struct SquaredError {
  const float* y;
  const float* target;
  std::int64_t target_size;

  __device__ __forceinline__ double operator()(std::int64_t i) const {
    const double error = static_cast<double>(y[i]) - static_cast<double>(target[i % target_size]);
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
  blocked_sum(queue, "mse_forward", dims.size, SquaredError{y, target, dims.target_size},
              StoreMean{dims.size > 0 ? static_cast<double>(dims.size) : 1.0, loss});
}

void mse_backward(CudaQueue& queue, const MseDims& dims, const float* y, const float* target,
                  const float* dloss, GradOut<float> dy) {
  if (!dy.data) return;
  map(queue, "mse_backward", dims.size,
      Gradient{target, dims.target_size, dloss, static_cast<float>(dims.size)}, dy, y);
}

}  // namespace sidechannel::kernels
