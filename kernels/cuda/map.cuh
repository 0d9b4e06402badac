#pragma once

// Elementwise operations: out[i] = f(i, in[i], ...), or += that. Thread t takes elements 4 t to
// 4 t + 3, by 16 bytes where all addresses allow it.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device/pack.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"
#include "kernels/cuda/tiling.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

template <class F, class... In>
__global__ void map_elements(std::int64_t size, bool packed, F f, GradOut<float> out,
                             const In*... in) {
  device::after_earlier_launches();
  using device::Pack;
  const std::int64_t first = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 4;
  if (packed && first + 4 <= size) {
    const auto result = [&](auto... value) {
      Pack<4> all;
#pragma unroll
      for (int j = 0; j < 4; ++j) all.v[j] = f(first + j, value.v[j]...);
      return all;
    }(Pack<4>::load(in + first)...);
    device::write(result, out, first);
    return;
  }
  for (std::int64_t i = first; i < first + 4 && i < size; ++i) {
    device::write(Pack<1>{{f(i, in[i]...)}}, out, i);
  }
}

// F is a functor of plain values, which goes to the device as an argument.
template <class F, class... In>
void map(CudaQueue& queue, const char* operation, std::int64_t size, const F& f, GradOut<float> out,
         const In*... in) {
  if (size == 0) return;
  constexpr unsigned kThreads = 256;
  const std::int64_t blocks = ceil_div(size, 4 * kThreads);
  launch(queue, operation, map_elements<F, In...>, Launch{blocks, kThreads}, size,
         packable({out.data, in...}), f, out, in...);
}

}  // namespace sidechannel::kernels
