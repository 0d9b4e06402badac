// y = max(x, 0), where NaN stays NaN, and dx = dy where y > 0, else 0: element by element; how
// threads map to elements is told in map.cuh.

#include "kernels/relu.h"

#include "kernels/cuda/device/activation.cuh"
#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

struct Relu {
  __device__ __forceinline__ float operator()(std::int64_t, float x) const {
    return device::relu(x);
  }
};

struct Mask {
  __device__ __forceinline__ float operator()(std::int64_t, float y, float dy) const {
    return y > 0.0f ? dy : 0.0f;
  }
};

}  // namespace

void run(CudaQueue& queue, const ReluForward<float>& call) {
  map(queue, "relu_forward", call.size, Relu(), {call.y}, call.x);
}

void run(CudaQueue& queue, const ReluBackward<float>& call) {
  if (call.dx.data) {
    map(queue, "relu_backward", call.size, Mask(), call.dx, call.y, call.dy);
  }
}

}  // namespace sidechannel::kernels
