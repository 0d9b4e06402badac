// x[i] = value: thread t writes element t.

#include "kernels/fill.h"

#include <cuda_runtime.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

namespace sidechannel::kernels {
namespace {

template <class T>
__global__ void fill_elements(std::int64_t size, T value, T* x) {
  device::after_earlier_launches();
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < size) x[i] = value;
}

template <class T>
void launch_fill(CudaQueue& queue, std::int64_t size, T value, T* x) {
  if (size == 0) return;
  constexpr unsigned kThreads = 256;
  const std::int64_t blocks = ceil_div(size, kThreads);
  launch(queue, "fill", fill_elements<T>, Launch{blocks, kThreads}, size, value, x);
}

}  // namespace

void fill(CudaQueue& queue, std::int64_t size, float value, float* x) {
  launch_fill(queue, size, value, x);
}
void fill(CudaQueue& queue, std::int64_t size, double value, double* x) {
  launch_fill(queue, size, value, x);
}

}  // namespace sidechannel::kernels
