#pragma once

// Weights in the order of MlpStage, rounded to TF32: once for all blocks of the launches that
// multiply by them. One thread for each 16 bytes.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device/dependency.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mlp/device/mlp.cuh"

namespace sidechannel::kernels {

// The left operands of a layer: of unit u and input k, w[u * unit + k * input], times factor[k]
// unless that is null.
struct MlpMatrix {
  const float* w;
  const float* factor;
  device::MlpStage* to;
  int unit, input;  // strides
  int stages;
};
template <int kMost>
struct MlpMatrices {
  MlpMatrix at[kMost];
};

template <int kMost>
__global__ void pack_mlp(const __grid_constant__ MlpMatrices<kMost> matrices) {
  device::after_earlier_launches();
  const MlpMatrix& m = matrices.at[blockIdx.y];
  constexpr int kUnits = sizeof(device::MlpStage) / 16;
  const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int stage = at / kUnits;
  if (stage >= m.stages) return;
  const int lane = at % 32, tile = at / 32 % (kMlpWidth / 16), step = at % kUnits / (kUnits / 2);
  const int unit = tile / 2 * 32 + lane / 4 * 4 + tile % 2 * 2;
  const int input = stage * device::kMlpStageInputs + lane % 4 * 4 + step * 2;
  const auto value = [&](int u, int k) {
    const float w = m.w[(unit + u) * m.unit + (input + k) * m.input];
    return device::to_tf32(m.factor ? w * m.factor[input + k] : w);
  };
  m.to[stage].unit[step][tile][lane] =
      make_float4(value(0, 0), value(1, 0), value(0, 1), value(1, 1));
}

template <int kMost>
void pack(CudaQueue& queue, const char* operation, const MlpMatrices<kMost>& matrices,
          std::size_t count, int most_stages) {
  constexpr int kThreads = 256;
  const std::int64_t units = most_stages * static_cast<std::int64_t>(sizeof(device::MlpStage) / 16);
  launch(queue, operation, pack_mlp<kMost>,
         Launch{{units / kThreads, static_cast<std::int64_t>(count)}, kThreads}, matrices);
}

}  // namespace sidechannel::kernels
