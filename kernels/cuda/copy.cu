// y = x or y += x, element by element: how threads map to elements is told in map.cuh.

#include "kernels/copy.h"

#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

struct Copy {
  __device__ __forceinline__ float operator()(std::int64_t, float x) const { return x; }
};

}  // namespace

void copy(CudaQueue& queue, std::int64_t size, const float* x, GradOut<float> y) {
  if (y.data) map(queue, "copy", size, Copy(), y, x);
}

}  // namespace sidechannel::kernels
