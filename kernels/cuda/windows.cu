// y[n * count + w, i] = x[n, w * stride + i] and the sum that leads back: an element of the output
// at a time, gathered from the input; how threads map to elements is told in map.cuh. The backward
// sum runs over the windows in order, as on the CPU.

#include "kernels/windows.h"

#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

struct Gather {
  WindowsForward<float> call;

  __device__ __forceinline__ float operator()(std::int64_t i) const {
    const WindowsDims& dims = call.dims;
    const std::int64_t row = i / dims.length;
    return call
        .x[row / dims.count * dims.extent() + row % dims.count * dims.stride + i % dims.length];
  }
};

struct GatherBack {
  WindowsBackward<float> call;

  __device__ __forceinline__ float operator()(std::int64_t i) const {
    const WindowsDims& dims = call.dims;
    const std::int64_t extent = dims.extent();
    const float* windows = call.dy + i / extent * dims.count * dims.length;
    float sum = 0;
    for (std::int64_t w = 0; w < dims.count; ++w) {
      const std::int64_t at = i % extent - w * dims.stride;
      if (at >= 0 && at < dims.length) sum += windows[w * dims.length + at];
    }
    return sum;
  }
};

}  // namespace

void run(CudaQueue& queue, const WindowsForward<float>& call) {
  map(queue, "windows_forward", call.dims.size(), Gather{call}, {call.y});
}

void run(CudaQueue& queue, const WindowsBackward<float>& call) {
  if (!call.dx.data) return;
  map(queue, "windows_backward", call.dims.samples * call.dims.extent(), GatherBack{call}, call.dx);
}

}  // namespace sidechannel::kernels
