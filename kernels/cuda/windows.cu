// y[n * count + w, i] = x[n, w * stride + i] and the sum that leads back: an element of the output
// at a time, gathered from the input; how threads map to elements is told in map.cuh. The backward
// sum runs over the windows in order, as on the CPU.

#include "kernels/windows.h"

#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

struct Windows {
  WindowsDims dims;
  const float* x;

  __device__ __forceinline__ float operator()(std::int64_t i) const {
    const std::int64_t row = i / dims.length;
    return x[row / dims.count * dims.extent() + row % dims.count * dims.stride + i % dims.length];
  }
};

struct WindowsBackward {
  WindowsDims dims;
  const float* dy;

  __device__ __forceinline__ float operator()(std::int64_t i) const {
    const std::int64_t extent = dims.extent();
    const float* windows = dy + i / extent * dims.count * dims.length;
    float sum = 0;
    for (std::int64_t w = 0; w < dims.count; ++w) {
      const std::int64_t at = i % extent - w * dims.stride;
      if (at >= 0 && at < dims.length) sum += windows[w * dims.length + at];
    }
    return sum;
  }
};

}  // namespace

void windows_forward(CudaQueue& queue, const WindowsDims& dims, const float* x, float* y) {
  map(queue, "windows_forward", dims.size(), Windows{dims, x}, {y});
}

void windows_backward(CudaQueue& queue, const WindowsDims& dims, const float* dy,
                      GradOut<float> dx) {
  if (!dx.data) return;
  map(queue, "windows_backward", dims.samples * dims.extent(), WindowsBackward{dims, dy}, dx);
}

}  // namespace sidechannel::kernels
