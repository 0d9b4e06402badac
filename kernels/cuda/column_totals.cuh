#pragma once

// The last stage of sums over all positions: blocks have left partial sums of their tiles' channels
// in scratch memory, [groups, channels, chunks], and these are added up for each channel.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device/pack.cuh"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"
#include "kernels/cuda/tiling.h"

namespace sidechannel::kernels {

// kValues numbers of one channel, summed over one tile.
template <int kValues>
struct ColumnPartial {
  float v[kValues];
};

// Where the totals go: value k of the first channels[k] channels, unless nobody asked for it.
template <int kValues>
struct ColumnOutputs {
  GradOut<float> to[kValues];
  int channels[kValues];
};

// One warp for each channel. Order: lane i takes parts i, i + 32, ... of [groups, chunks]; then the
// warp's tree.
template <int kValues>
__global__ void total_columns(Tiling tiling, std::int64_t groups,
                              const ColumnPartial<kValues>* partial, ColumnOutputs<kValues> out) {
  device::after_earlier_launches();
  const int channel = static_cast<int>(blockIdx.x * blockDim.y + threadIdx.y);
  if (channel >= tiling.channels) return;  // the whole warp
  float total[kValues] = {};
  for (std::int64_t part = threadIdx.x; part < groups * tiling.chunks; part += device::kWarpSize) {
    const std::int64_t row = part / tiling.chunks * tiling.channels + channel;
    const ColumnPartial<kValues> one = partial[row * tiling.chunks + part % tiling.chunks];
#pragma unroll
    for (int k = 0; k < kValues; ++k) total[k] += one.v[k];
  }
#pragma unroll
  for (int k = 0; k < kValues; ++k) {
    total[k] = device::warp_sum(total[k]);
    if (threadIdx.x == 0 && out.to[k].data && channel < out.channels[k]) {
      device::write(device::Pack<1>{{total[k]}}, out.to[k], channel);
    }
  }
}

template <int kValues>
void launch_total_columns(CudaQueue& queue, const char* operation, const TilePlan& plan,
                          const ColumnPartial<kValues>* partial,
                          const ColumnOutputs<kValues>& out) {
  constexpr int kWarps = 8;
  launch(queue, operation, total_columns<kValues>,
         Launch{ceil_div(plan.tiling.channels, kWarps), dim3(device::kWarpSize, kWarps)},
         plan.tiling, plan.groups, partial, out);
}

template <int kValues>
std::size_t column_partial_bytes(const TilePlan& plan) {
  return static_cast<std::size_t>(plan.groups * plan.tiling.channels * plan.tiling.chunks) *
         sizeof(ColumnPartial<kValues>);
}

}  // namespace sidechannel::kernels
