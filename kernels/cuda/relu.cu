// y = max(x, 0), where NaN stays NaN, and dx = dy where y > 0, else 0: element by element; how
// threads map to elements is told in map.cuh.

#include "kernels/relu.h"

#include "kernels/cuda/device/relu.cuh"
#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

struct Relu {
  __device__ __forceinline__ float operator()(std::int64_t, float x) const {
    return device::relu(x);
  }
};

struct ReluBackward {
  __device__ __forceinline__ float operator()(std::int64_t, float y, float dy) const {
    return y > 0.0f ? dy : 0.0f;
  }
};

}  // namespace

void relu_forward(CudaQueue& queue, std::int64_t size, const float* x, float* y) {
  map(queue, "relu_forward", size, Relu(), {y}, x);
}

void relu_backward(CudaQueue& queue, std::int64_t size, const float* y, const float* dy,
                   GradOut<float> dx) {
  if (dx.data) map(queue, "relu_backward", size, ReluBackward(), dx, y, dy);
}

}  // namespace sidechannel::kernels
