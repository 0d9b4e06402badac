#pragma once

// How the specialized kernels of conv1d (C_in = C_out = h, 5 taps) bring their operands into shared
// memory: in stages that are filled in the background while the stage before is multiplied, 16
// bytes a copy.
//
// Sequences lie in planes of four channels, [c / 4][position][4 channels]: the next tap is 16 bytes
// further on, and as the number of positions of a plane is odd, the 16-byte pieces that eight lanes
// read at once (two positions of four planes, or eight planes) lie in eight different groups of
// banks.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/conv1d_kernels.h"
#include "kernels/cuda/device/cp_async.cuh"
#include "kernels/cuda/device/mma.cuh"

namespace sidechannel::kernels::device {

constexpr int kTaps = 5;
constexpr int kStageChannels = 16;  // of x that one stage of a row product brings

// Four floats of shared memory, 16-byte aligned.
__device__ __forceinline__ float4 load4(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}
__device__ __forceinline__ float2 load2(const float* from) {
  return *reinterpret_cast<const float2*>(from);
}

// What is done with the chunks of four floats that a thread brings into shared memory:
//
// It begins to copy them.
struct BeginCopy {
  __device__ __forceinline__ void operator()(float* chunk, const float* global, bool inside) const {
    copy_async(chunk, global, inside);
  }
};
// When they have arrived, it rounds them where they stand, before the barrier that shows them to
// the other threads: so every operand is rounded once.
struct Round {
  __device__ __forceinline__ void operator()(float* chunk, const float*, bool) const {
    *reinterpret_cast<float4*>(chunk) = to_tf32(load4(chunk));
  }
};

// kPositions positions of kChannels channels.
template <int kChannels, int kPositions>
struct Planes {
  static constexpr int kQuads = kChannels / 4;
  static constexpr int kPitch = kPositions | 1;  // odd
  alignas(16) float at[kQuads][kPitch][4];

  // Calls visit(shared, global, inside) for each chunk of four channels that is this thread's: of
  // channels [c0, c0 + kChannels), positions [first, first + count) of `sequence` [length,
  // channels]. Chunks outside of the sequence, and those beyond `count`, are not inside.
  template <int kThreads, class Visit>
  __device__ __forceinline__ void for_own_chunks(const float* sequence, int length, int channels,
                                                 int c0, int first, int count, Visit visit) {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < kQuads * kPositions; i += kThreads) {
      const int quad = i % kQuads;
      const int position = i / kQuads;
      const int l = first + position;
      const bool inside = position < count && l >= 0 && l < length;
      const std::int64_t index = inside ? std::int64_t{l} * channels + c0 + 4 * quad : 0;
      visit(at[quad][position], sequence + index, inside);
    }
  }
};

// The weights of kStageChannels channels for all kColumns columns and taps of a row product, as
// they stand in the layer's memory: a row of columns for each tap and channel; flipped, a row of
// channels for each tap and column. Place says in which order the rows lie and how far apart.
template <class Place>
struct WeightRows {
  alignas(16) float at[kTaps][Place::kRows][Place::kPitch];

  template <int kThreads, class Visit>
  __device__ __forceinline__ void for_own_chunks(const float* w, int c0, Visit visit) {
    constexpr int kQuads = Place::kWidth / 4;
    constexpr int kChunks = kTaps * Place::kRows * kQuads;
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < kChunks; i += kThreads) {
      const int quad = i % kQuads;
      const int row = i / kQuads % Place::kRows;
      const int tap = i / kQuads / Place::kRows;
      const float* from =
          Place::kFlip ? w + ((kTaps - 1 - tap) * Place::kColumns + row) * Place::kColumns + c0
                       : w + (tap * Place::kColumns + c0 + row) * Place::kColumns;
      visit(&at[tap][Place::place(row)][4 * quad], from + 4 * quad, true);
    }
  }
};

// What a stage of a row product holds.
template <class Place, int kPositions>
struct RowStage {
  Planes<kStageChannels, kPositions + kTaps - 1> x;
  WeightRows<Place> w;

  template <int kThreads, class Visit>
  __device__ __forceinline__ void for_own_chunks(const RowProduct& p, int n, int first, int count,
                                                 int c0, Visit visit) {
    const float* sample = p.x + std::int64_t{n} * p.length * Place::kColumns;
    x.template for_own_chunks<kThreads>(sample, p.length, Place::kColumns, c0, first - p.offset,
                                        count + kTaps - 1, visit);
    w.template for_own_chunks<kThreads>(p.w, c0, visit);
  }
};

// Brings the stages of a block's tile (positions [first, first + count) of sample n) one after the
// other and calls multiply(stage) for each, with all threads, between barriers. kRound: operands
// are rounded to TF32. Afterwards nothing is under way and the shared memory is free.
template <int kThreads, bool kRound, class Stage, class Multiply>
__device__ __forceinline__ void for_stages(const RowProduct& p, int channels, int n, int first,
                                           int count, Stage* stages, Multiply multiply) {
  const auto fill = [&](Stage& stage, int c0) {
    stage.template for_own_chunks<kThreads>(p, n, first, count, c0, BeginCopy());
  };
  fill(stages[0], 0);
  copy_async_commit();
#pragma unroll 1
  for (int c0 = 0, s = 0; c0 < channels; c0 += kStageChannels, s ^= 1) {
    if (c0 + kStageChannels < channels) fill(stages[s ^ 1], c0 + kStageChannels);
    copy_async_commit();  // one group a stage, in the last round an empty one
    copy_async_wait<1>();
    if constexpr (kRound) {
      stages[s].template for_own_chunks<kThreads>(p, n, first, count, c0, Round());
    }
    __syncthreads();  // the stage is complete, with what the other threads copied
    multiply(stages[s]);
    __syncthreads();  // all have read the stage before it is filled again
  }
}

// The tile of positions of a block: tiles of all samples in order, those of one sample of about the
// same size.
struct RowTile {
  int n, first, count;

  __device__ RowTile(const RowProduct& p, int positions) {
    const int tiles = (p.length_out + positions - 1) / positions;
    const int size = (p.length_out + tiles - 1) / tiles;
    n = static_cast<int>(blockIdx.x) / tiles;
    first = static_cast<int>(blockIdx.x) % tiles * size;
    count = min(size, p.length_out - first);
  }
};

}  // namespace sidechannel::kernels::device
