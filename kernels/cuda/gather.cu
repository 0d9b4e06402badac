// y[n, i] = x[begin_of(index[n]) + i], an element at a time: how threads map to elements is told in
// map.cuh.

#include "kernels/gather.h"

#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

struct Take {
  Gather<float> call;

  __device__ __forceinline__ float operator()(std::int64_t i) const {
    const std::int64_t n = i / call.dims.width;
    return call.x[call.dims.begin_of(call.index[n]) + i % call.dims.width];
  }
};

}  // namespace

void run(CudaQueue& queue, const Gather<float>& call) {
  map(queue, "gather", call.dims.rows * call.dims.width, Take{call}, {call.y});
}

}  // namespace sidechannel::kernels
