// y[n, j, c] = x[n, (j - before) mod length, c] and the sum that leads back: an element of the
// output at a time, gathered from the input; how threads map to elements is told in map.cuh. The
// backward sum runs over the copies in order, as on the CPU.

#include "kernels/circular_pad.h"

#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

struct GatherPadded {
  CircularPadForward<float> call;

  __device__ __forceinline__ float operator()(std::int64_t i) const {
    const CircularPadDims& dims = call.dims;
    const std::int64_t row = i / dims.channels, length = dims.length_out();
    const std::int64_t from = row / length * dims.length + dims.source_of(row % length);
    return call.x[from * dims.channels + i % dims.channels];
  }
};

struct SumCopies {
  CircularPadBackward<float> call;

  __device__ __forceinline__ float operator()(std::int64_t i) const {
    const CircularPadDims& dims = call.dims;
    const std::int64_t row = i / dims.channels, length = dims.length_out();
    const float* dy = call.dy + row / dims.length * length * dims.channels + i % dims.channels;
    float sum = 0;
    for (std::int64_t j = dims.first_of(row % dims.length); j < length; j += dims.length) {
      sum += dy[j * dims.channels];
    }
    return sum;
  }
};

}  // namespace

void run(CudaQueue& queue, const CircularPadForward<float>& call) {
  const CircularPadDims& dims = call.dims;
  map(queue, "circular_pad_forward", dims.batch * dims.length_out() * dims.channels,
      GatherPadded{call}, {call.y});
}

void run(CudaQueue& queue, const CircularPadBackward<float>& call) {
  if (!call.dx.data) return;
  const CircularPadDims& dims = call.dims;
  map(queue, "circular_pad_backward", dims.batch * dims.length * dims.channels, SumCopies{call},
      call.dx);
}

}  // namespace sidechannel::kernels
