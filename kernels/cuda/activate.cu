// Activations on their own: element by element; how threads map to elements is told in map.cuh.

#include "kernels/activate.h"

#include "kernels/cuda/device/activation.cuh"
#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

struct Activate {
  Activation activation;
  __device__ __forceinline__ float operator()(std::int64_t, float x) const {
    return device::activate(activation, x);
  }
};

struct LetThrough {
  Activation activation;
  __device__ __forceinline__ float operator()(std::int64_t, float kept, float dy) const {
    return device::activate_backward(activation, kept, dy);
  }
};

}  // namespace

void run(CudaQueue& queue, const ActivateForward<float>& call) {
  map(queue, "activate_forward", call.size, Activate{call.activation}, {call.y}, call.x);
}

void run(CudaQueue& queue, const ActivateBackward<float>& call) {
  if (call.dx.data) {
    map(queue, "activate_backward", call.size, LetThrough{call.activation}, call.dx, call.kept,
        call.dy);
  }
}

}  // namespace sidechannel::kernels
