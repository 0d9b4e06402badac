// y[r] = (a[r], b[r]) and back: an element of the output at a time, gathered from the input; how
// threads map to elements is told in map.cuh.

#include "kernels/concat.h"

#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

struct SideBySide {
  ConcatForward<float> call;

  __device__ __forceinline__ float operator()(std::int64_t i) const {
    const ConcatDims& dims = call.dims;
    const std::int64_t row = i / dims.channels(), c = i % dims.channels();
    if (c < dims.channels_a) return call.a[row * dims.channels_a + c];
    return call.b[row * dims.channels_b + c - dims.channels_a];
  }
};

// Columns of dy, [rows, channels], from `first` on.
struct TakeColumns {
  const float* dy;
  std::int64_t channels, first, columns;

  __device__ __forceinline__ float operator()(std::int64_t i) const {
    return dy[i / columns * channels + first + i % columns];
  }
};

}  // namespace

void run(CudaQueue& queue, const ConcatForward<float>& call) {
  map(queue, "concat_forward", call.dims.rows * call.dims.channels(), SideBySide{call}, {call.y});
}

void run(CudaQueue& queue, const ConcatBackward<float>& call) {
  const auto take = [&](std::int64_t first, std::int64_t columns, GradOut<float> dx) {
    if (!dx.data) return;
    map(queue, "concat_backward", call.dims.rows * columns,
        TakeColumns{call.dy, call.dims.channels(), first, columns}, dx);
  };
  take(0, call.dims.channels_a, call.da);
  take(call.dims.channels_a, call.dims.channels_b, call.db);
}

}  // namespace sidechannel::kernels
