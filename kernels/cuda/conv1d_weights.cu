// Parameter gradients of conv1d: C_in = C_out = h, 5 taps, first stage. The problem is defined in
// conv1d_kernels.h, how operands come into shared memory in device/conv1d_stage.cuh.
//
//   dw[t, ci, co] = sum over positions l of x[l + t - padding, ci] * dy[l, co]
//
// A block sums a slice of kSlice input channels x all h output channels x all taps over one split:
// grid.x counts slices, grid.y splits. Chunks of 64 positions are staged one after the other. The
// block's threads form kGroups groups: each keeps all of the slice's sums in registers, 80 a
// thread, and takes its share of every chunk's positions. In the end the groups' sums are added one
// after the other. The bias's sums are taken, by the blocks of the first slice, from what each
// thread copied itself, before it is rounded.

#include <cuda_runtime.h>

#include "kernels/cuda/conv1d_kernels.h"
#include "kernels/cuda/device/conv1d_index.cuh"
#include "kernels/cuda/device/conv1d_stage.cuh"
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/launch.h"

namespace sidechannel::kernels {
namespace {

using device::kTaps;
using device::load2;
using device::load4;

constexpr int kChunk = 64;
constexpr int kSums = 80;  // of a thread

template <int kHidden>
struct Shape {
  static constexpr int kChannels = kHidden;
  static constexpr int kSlice = kHidden / 2;
  static constexpr int kGroupThreads = kTaps * kSlice * kHidden / kSums;
  static constexpr int kGroups = kHidden == 64 ? 2 : 4;
  static constexpr int kThreads = kGroupThreads * kGroups;
};

template <class S>
struct Stage {
  device::Planes<S::kSlice, kChunk + kTaps - 1> x;
  device::Planes<S::kChannels, kChunk> dy;
};

__device__ __forceinline__ void store4(float* to, float a, float b, float c, float d) {
  *reinterpret_cast<float4*>(to) = make_float4(a, b, c, d);
}

// In fp32. A thread sums 2 neighbouring ci x 8 co (4 neighbours and the same h / 2 further on) x 5
// taps. A group takes neighbouring positions, whose inputs slide through a window of registers.
// Order of a sum: position by position.
template <class S>
struct FfmaSums {
  static constexpr bool kRound = false;
  static constexpr int kQuads = S::kChannels / 8;
  static constexpr int kStep = 4;  // positions

  float sum[kTaps][2][8] = {};
  int group, ci, co;

  __device__ FfmaSums(int group_, int rank)
      : group(group_), ci(rank / kQuads * 2), co(rank % kQuads * 4) {}

  __device__ __forceinline__ void add(const Stage<S>& stage, int count) {
    constexpr int kShare = kChunk / S::kGroups;
    const int begin = group * kShare;
    const int end = min(begin + kShare, count);
    float2 x[2 * kStep];
    const auto load = [&](int l) { return load2(&stage.x.at[ci / 4][l][ci % 4]); };
#pragma unroll
    for (int i = 0; i < kStep; ++i) x[kStep + i] = load(begin + i);
#pragma unroll 1
    for (int l = begin; l < end; l += kStep) {
#pragma unroll
      for (int i = 0; i < kStep; ++i) {
        x[i] = x[kStep + i];
        x[kStep + i] = load(l + kStep + i);
      }
#pragma unroll
      for (int i = 0; i < kStep; ++i) {
        // Beyond `count`, where the last step may reach, dy is staged as zeros.
        const float4 low = load4(stage.dy.at[co / 4][l + i]);
        const float4 high = load4(stage.dy.at[S::kChannels / 8 + co / 4][l + i]);
        const float dy[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
        for (int t = 0; t < kTaps; ++t) {
#pragma unroll
          for (int o = 0; o < 8; ++o) {
            sum[t][0][o] += x[i + t].x * dy[o];
            sum[t][1][o] += x[i + t].y * dy[o];
          }
        }
      }
    }
  }

  __device__ __forceinline__ float* sums() {
    return &sum[0][0][0];
  }

  // out [kTaps, h, h], beginning at the slice's first ci.
  __device__ __forceinline__ void write(float* out) const {
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float* row = out + (t * S::kChannels + ci + c) * S::kChannels + co;
        const auto& s = sum[t][c];
        store4(row, s[0], s[1], s[2], s[3]);
        store4(row + S::kChannels / 2, s[4], s[5], s[6], s[7]);
      }
    }
  }
};

// On tensor cores: TF32 operands, fp32 sums. A warp sums 32 co x 16 ci x 5 taps as 2 x 10 products
// of mma.sync m16n8k8, of which rows (m) are co, columns (n) are ci, and the sum (k) runs over
// positions. With g = lane / 4 and t4 = lane % 4:
//
//   k     position 2 * t4 + {0, 1} of eight, for k = t4 and t4 + 4: six neighbouring positions of x
//         serve all five taps
//   m     co 4 * g + 2 * half + {0, 1} of the warp's, for m = g and g + 8
//   n     ci 2 * g + odd of the warp's, odd = 0, 1
//
// A group takes every kGroups-th eight positions. Order of a sum: eight positions after the other,
// whose sum the tensor core takes in an order of its own.
template <class S>
struct MmaSums {
  static constexpr bool kRound = true;

  float sum[2][kTaps][2][4] = {};  // [half][tap][odd][of the product]
  int group, ci, co, g, t4;

  __device__ MmaSums(int group_, int rank)
      : group(group_),
        ci(rank / 32 / (S::kChannels / 32) * 16),
        co(rank / 32 % (S::kChannels / 32) * 32),
        g(rank % 32 / 4),
        t4(rank % 4) {}

  __device__ __forceinline__ void add(const Stage<S>& stage, int count) {
#pragma unroll 1
    for (int l = 8 * group; l < count; l += 8 * S::kGroups) {
      // Four co at each of the two positions.
      const float4 first = load4(stage.dy.at[co / 4 + g][l + 2 * t4]);
      const float4 second = load4(stage.dy.at[co / 4 + g][l + 2 * t4 + 1]);
      float2 x[kTaps + 1];
#pragma unroll
      for (int i = 0; i <= kTaps; ++i) {
        x[i] = load2(&stage.x.at[ci / 4 + g / 2][l + 2 * t4 + i][g % 2 * 2]);
      }
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const float b0 = odd == 0 ? x[t].x : x[t].y;
          const float b1 = odd == 0 ? x[t + 1].x : x[t + 1].y;
          device::mma_tf32(sum[0][t][odd], first.x, first.y, second.x, second.y, b0, b1);
          device::mma_tf32(sum[1][t][odd], first.z, first.w, second.z, second.w, b0, b1);
        }
      }
    }
  }

  __device__ __forceinline__ float* sums() {
    return &sum[0][0][0][0];
  }

  // The lane has n = 2 * t4 + {0, 1}, that is ci 4 * t4 + {0, 2} + odd.
  __device__ __forceinline__ void write(float* out) const {
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int channel = ci + 4 * t4 + 2 * e + odd;
          store4(out + (t * S::kChannels + channel) * S::kChannels + co + 4 * g, sum[0][t][odd][e],
                 sum[0][t][odd][2 + e], sum[1][t][odd][e], sum[1][t][odd][2 + e]);
        }
      }
    }
  }
};

// What the shared memory is used for in the end: the sums of one group, and the bias's of each
// thread.
template <class S>
struct Ending {
  float group[kSums][S::kGroupThreads];
  float bias[S::kThreads][4];
};

template <class S>
constexpr std::size_t shared_bytes() {
  return 2 * sizeof(Stage<S>) > sizeof(Ending<S>) ? 2 * sizeof(Stage<S>) : sizeof(Ending<S>);
}

template <class S, template <class> class Sums>
__global__ void __launch_bounds__(S::kThreads) weights_kernel(WeightSums p) {
  constexpr int kChannels = S::kChannels;
  const int thread = static_cast<int>(threadIdx.x);
  const int group = thread / S::kGroupThreads;
  const int rank = thread % S::kGroupThreads;
  const int ci0 = static_cast<int>(blockIdx.x) * S::kSlice;
  auto* stages = device::dynamic_shared<Stage<S>>();
  Sums<S> sums(group, rank);

  // Each thread copies the same four channels of dy at all positions that it copies.
  constexpr int kQuads = kChannels / 4;
  static_assert(S::kThreads % kQuads == 0);
  float bias[4] = {};
  const bool with_bias = p.bias && blockIdx.x == 0;

  const auto for_own_x = [&](Stage<S>& stage, const device::Chunk& chunk, auto visit) {
    stage.x.template for_own_chunks<S::kThreads>(p.x + std::int64_t{chunk.n} * p.length * kChannels,
                                                 p.length, kChannels, ci0, chunk.first - p.padding,
                                                 chunk.count + kTaps - 1, visit);
  };
  const auto for_own_dy = [&](Stage<S>& stage, const device::Chunk& chunk, auto visit) {
    stage.dy.template for_own_chunks<S::kThreads>(
        p.dy + std::int64_t{chunk.n} * p.length_out * kChannels, p.length_out, kChannels, 0,
        chunk.first, chunk.count, visit);
  };

  const device::Chunks chunks(p, static_cast<int>(blockIdx.y));
  if (chunks.begin < chunks.end) {
    const device::Chunk chunk(p, chunks.begin);
    for_own_x(stages[0], chunk, device::BeginCopy());
    for_own_dy(stages[0], chunk, device::BeginCopy());
  }
  device::copy_async_commit();
#pragma unroll 1
  for (int index = chunks.begin, s = 0; index < chunks.end; ++index, s ^= 1) {
    if (index + 1 < chunks.end) {
      const device::Chunk next(p, index + 1);
      for_own_x(stages[s ^ 1], next, device::BeginCopy());
      for_own_dy(stages[s ^ 1], next, device::BeginCopy());
    }
    device::copy_async_commit();  // one group a stage, in the last round an empty one
    device::copy_async_wait<1>();
    const device::Chunk chunk(p, index);
    if (Sums<S>::kRound || with_bias) {
      for_own_dy(stages[s], chunk, [&bias](float* own, const float*, bool) {
        const float4 dy = load4(own);
        bias[0] += dy.x;
        bias[1] += dy.y;
        bias[2] += dy.z;
        bias[3] += dy.w;
        if (Sums<S>::kRound) device::Round()(own, nullptr, true);
      });
    }
    if (Sums<S>::kRound) for_own_x(stages[s], chunk, device::Round());
    __syncthreads();  // the stage is complete, with what the other threads copied
    sums.add(stages[s], chunk.count);
    __syncthreads();  // all have read the stage before it is filled again
  }

  auto& ending = *device::dynamic_shared<Ending<S>>();
  for (int other = 1; other < S::kGroups; ++other) {
    if (group == other) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) ending.group[i][rank] = sums.sums()[i];
    }
    __syncthreads();  // this group's sums stand
    if (group == 0) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums.sums()[i] += ending.group[i][rank];
    }
    __syncthreads();  // they have been added before the next group writes
  }
  float* out = p.partial + blockIdx.y * p.row;
  if (group == 0) sums.write(out + ci0 * kChannels);

  if (!with_bias) return;  // the whole block
#pragma unroll
  for (int e = 0; e < 4; ++e) ending.bias[thread][e] = bias[e];
  __syncthreads();  // all threads' sums stand
  if (thread < kChannels) {
    float sum = 0;
    for (int i = thread / 4; i < S::kThreads; i += kQuads) sum += ending.bias[i][thread % 4];
    out[p.weight_sums + thread] = sum;
  }
}

template <class S, template <class> class Sums>
void sum_weights(CudaQueue& queue, const WeightSums& p) {
  Launch how;
  how.grid = dim3(S::kChannels / S::kSlice, p.splits);
  how.block = dim3(S::kThreads);
  how.dynamic_shared = shared_bytes<S>();
  launch(queue, Sums<S>::kRound ? "conv1d weight gradient, TF32" : "conv1d weight gradient, fp32",
         weights_kernel<S, Sums>, how, p);
}

template <class S, template <class> class Sums>
WeightVariant variant(const char* name) {
  return {name,
          S::kChannels,
          kChunk,
          shared_bytes<S>(),
          [](const WeightSums&) { return S::kChannels / S::kSlice; },
          sum_weights<S, Sums>};
}

}  // namespace

const std::vector<WeightVariant>& ffma_weights() {
  static const std::vector<WeightVariant> variants = {
      variant<Shape<64>, FfmaSums>("fp32 h = 64"),
      variant<Shape<32>, FfmaSums>("fp32 h = 32"),
  };
  return variants;
}

const std::vector<WeightVariant>& tf32_mma_weights() {
  static const std::vector<WeightVariant> variants = {
      variant<Shape<64>, MmaSums>("TF32 h = 64"),
      variant<Shape<32>, MmaSums>("TF32 h = 32"),
  };
  return variants;
}

}  // namespace sidechannel::kernels
