// x[i] = value: one thread for an element, or several elements a whole grid apart.

#include "kernels/fill.h"

#include "kernels/cuda/launch.h"

namespace sidechannel::kernels {
namespace {

template <class T>
__global__ void fill_kernel(std::int64_t size, T value, T* x) {
  const std::int64_t step = std::int64_t{gridDim.x} * blockDim.x;
  for (std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < size; i += step)
    x[i] = value;
}

template <class T>
void fill_any(CudaQueue& queue, std::int64_t size, T value, T* x) {
  constexpr unsigned kThreads = 256;
  constexpr std::int64_t kMostBlocks = 1024;
  if (size == 0) return;
  const std::int64_t blocks = (size + kThreads - 1) / kThreads;
  const auto grid = static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks);
  launch(queue, "fill", fill_kernel<T>, {dim3(grid), dim3(kThreads)}, size, value, x);
}

}  // namespace

void fill(CudaQueue& queue, std::int64_t size, float value, float* x) {
  fill_any(queue, size, value, x);
}

void fill(CudaQueue& queue, std::int64_t size, double value, double* x) {
  fill_any(queue, size, value, x);
}

}  // namespace sidechannel::kernels
