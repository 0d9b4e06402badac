#pragma once

// How the specialized kernels of conv1d (C_in = C_out = h, few taps) keep sequences in shared
// memory: in planes of four channels, [c / 4][position][4 channels]. The next tap is 16 bytes
// further on, and as the number of positions of a plane is odd, what eight lanes read at once, 16
// bytes each (two positions of four planes, or one position of eight), lies in eight different
// groups of banks.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/device/ptx.cuh"

namespace sidechannel::kernels::device {

constexpr int kStageChannels = 16;  // of x that one stage of a row product holds

// Floats of shared memory, aligned to 16 and 8 bytes.
__device__ __forceinline__ float4 load4(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}
__device__ __forceinline__ float2 load2(const float* from) {
  return *reinterpret_cast<const float2*>(from);
}

// Begins to copy a chunk of four floats from global memory.
struct BeginCopy {
  __device__ __forceinline__ void operator()(int /*pass*/, float* shared, const float* global,
                                             bool inside) const {
    ptx::cp_async(shared, global, inside);
  }
};

// kPositions positions of kChannels channels.
template <int kChannels, int kPositions>
struct Planes {
  static constexpr int kQuads = kChannels / 4;
  static constexpr int kPitch = kPositions | 1;  // odd
  alignas(16) float at[kQuads][kPitch][4];

  // Which four channels the thread brings: the same in every pass.
  __device__ static constexpr int own_quad(int thread) { return thread / 8 % kQuads; }
  // How many chunks each of kThreads threads brings, at most.
  template <int kThreads>
  static constexpr int kPasses = (kPositions * kQuads + kThreads - 1) / kThreads;

  // Calls visit(pass, shared, global, inside) for each chunk of four channels that is this
  // thread's, one of kThreads: of channels [c0, c0 + kChannels), positions [first, first + count)
  // of `sequence` [length, kStride]. Chunks that lie outside of the sequence, or beyond count, are
  // not inside. Eight neighbouring threads take neighbouring positions, for the banks that they
  // write to.
  template <int kThreads, int kStride, class Visit>
  __device__ __forceinline__ void for_own_chunks(int thread, const float* sequence, int length,
                                                 int c0, int first, int count, Visit visit) {
    constexpr int kPass = kThreads / kQuads;  // positions
    static_assert(kThreads % (8 * kQuads) == 0);
    const int quad = own_quad(thread);
    const int start = thread % 8 + thread / (8 * kQuads) * 8;
    const std::int64_t offset = std::int64_t{first + start} * kStride + c0 + 4 * quad;
#pragma unroll
    for (int pass = 0; pass < kPasses<kThreads>; ++pass) {
      const int position = start + pass * kPass;
      const int l = first + position;
      const bool inside = position < count && l >= 0 && l < length;
      if (position < kPositions) {
        visit(pass, at[quad][position], sequence + (inside ? offset + pass * kPass * kStride : 0),
              inside);
      }
    }
  }
};

// The tile of positions of a block of a row product: [first, first + count) of sample n. Tiles of
// all samples in order, those of one sample of about the same size.
struct RowTile {
  int n, first, count;

  __device__ RowTile(const NarrowProduct& p, int positions) {
    const int tiles = (p.length_out + positions - 1) / positions;
    const int size = (p.length_out + tiles - 1) / tiles;
    n = static_cast<int>(blockIdx.x) / tiles;
    first = static_cast<int>(blockIdx.x) % tiles * size;
    count = min(size, p.length_out - first);
  }
};

// Adds the sums of a block's groups of threads, one group after the other, to those of group 0:
// each thread has kSums sums, those of equal rank belong together. Threads of a negative group have
// none. All threads of the block take part, and have a barrier behind them when this returns.
template <int kGroups, int kSums, int kGroupThreads>
__device__ __forceinline__ void add_groups(float* sums, int group, int rank,
                                           float (*shared)[kGroupThreads]) {
#pragma unroll 1
  for (int other = 1; other < kGroups; ++other) {
    if (group == other) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) shared[i][rank] = sums[i];
    }
    __syncthreads();  // this group's sums stand
    if (group == 0) {
#pragma unroll
      for (int i = 0; i < kSums; ++i) sums[i] += shared[i][rank];
    }
    __syncthreads();  // they have been read before the next group writes
  }
}

__device__ __forceinline__ void store4(float* to, float a, float b, float c, float d) {
  *reinterpret_cast<float4*>(to) = make_float4(a, b, c, d);
}

}  // namespace sidechannel::kernels::device
