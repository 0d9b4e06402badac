#pragma once

// How the threads of a block walk over their tile of a matrix [positions, channels], and add up its
// columns.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device/pack.cuh"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/tiling.h"

namespace sidechannel::kernels::device {

// What a thread works on: kVec neighbouring channels at up to kItems positions, blockDim.y apart.
template <int kVec, int kItems>
struct Tile {
  std::int64_t group;
  int chunk;
  int channel;          // the thread's first
  int count;            // its positions: fewer than kItems at the end, 0 beyond the last channel
  std::int64_t first;   // position in the group, blockDim.y before the next one
  std::int64_t offset;  // from the beginning of the tensor to the thread's first element
  std::int64_t step;    // from there to its next position

  explicit __device__ __forceinline__ Tile(const Tiling& tiling) {
    group = blockIdx.x / static_cast<unsigned>(tiling.chunks);
    chunk = static_cast<int>(blockIdx.x % static_cast<unsigned>(tiling.chunks));
    channel = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) * kVec;
    const int rows = static_cast<int>(blockDim.y);
    const int row = static_cast<int>(threadIdx.y);
    const int length = positions_of_chunk(tiling);
    count = channel < tiling.channels && row < length ? (length - row + rows - 1) / rows : 0;
    first = std::int64_t{chunk} * tiling.chunk + row;
    offset = (group * tiling.positions + first) * tiling.channels + channel;
    step = std::int64_t{rows} * tiling.channels;
  }

  __device__ __forceinline__ int positions_of_chunk(const Tiling& tiling) const {
    const std::int64_t left = tiling.positions - std::int64_t{chunk} * tiling.chunk;
    return left < tiling.chunk ? static_cast<int>(left) : tiling.chunk;
  }

  // Whether the thread's channels exist at all.
  __device__ __forceinline__ bool inside(const Tiling& tiling) const {
    return channel < tiling.channels;
  }

  // Calls body(i, offset of the thread's i-th position). Unrolled, so that arrays that are indexed
  // by i stay in registers.
  template <class Body>
  __device__ __forceinline__ void each(const Body& body) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      if (i < count) body(i, offset + i * step);
    }
  }

  // All of the thread's elements; zeros where it has none.
  __device__ __forceinline__ void load(const float* from, Pack<kVec> (&items)[kItems]) const {
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      items[i] = i < count ? Pack<kVec>::load(from + offset + i * step) : Pack<kVec>{};
    }
  }
};

// First channel of the block's tile, and how many of the tile's exist.
template <int kVec>
__device__ __forceinline__ int first_channel() {
  return static_cast<int>(blockIdx.y * blockDim.x) * kVec;
}
template <int kVec>
__device__ __forceinline__ int tile_channels(const Tiling& tiling) {
  return min(static_cast<int>(blockDim.x) * kVec, tiling.channels - first_channel<kVec>());
}

// Where a block adds up kValues numbers for each channel of its tile.
template <int kVec, int kValues>
struct ColumnSums {
  static constexpr int kChannels = static_cast<int>(kWarpSize) * kVec;
  static constexpr int kWarps = kMaxTileThreads / static_cast<int>(kWarpSize);
  float of_warp[kValues][kWarps][kChannels];
  float of_channel[kValues][kChannels];
  float result[kValues][kChannels];

  // What add_up left for the channels of this thread.
  __device__ __forceinline__ Pack<kVec> mine(int value) const {
    return Pack<kVec>::gather(&result[value][threadIdx.x * kVec]);
  }
};

// For add_up, where there is nothing to do.
struct Nothing {
  template <class... Any>
  __device__ __forceinline__ void operator()(Any&&...) const {}
};

// Adds the `values` (kUsed <= kValues of them) of all threads with the same channels, then of each
// `set` neighbouring channels (1, or a divisor of the tile's; only the first `channels` of the tile
// exist). On the way, for each channel, one thread calls per_channel(channel in the tile, its sums)
// and per_set(channel, sums of its set), which may change the sums: what is left stands in
// sums.result for every thread. Callers need no barrier before or between calls.
//
// Order: a tree over the rows of a warp, the warps one after the other, the channels of a set one
// after the other.
template <int kVec, int kValues, int kUsed, class PerChannel, class PerSet>
__device__ __forceinline__ void add_up(ColumnSums<kVec, kValues>& sums, Pack<kVec> (&values)[kUsed],
                                       int set, int channels, const PerChannel& per_channel,
                                       const PerSet& per_set) {
  static_assert(kUsed <= kValues);
  const int columns = static_cast<int>(blockDim.x);
  const int rank = static_cast<int>(thread_rank());
  const int threads = static_cast<int>(block_threads());
  const int warps = threads / static_cast<int>(kWarpSize);
  const int lane = static_cast<int>(lane_id());

  for (int distance = static_cast<int>(kWarpSize) / 2; distance >= columns; distance /= 2) {
#pragma unroll
    for (int k = 0; k < kUsed; ++k) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        values[k].v[j] += __shfl_xor_sync(kAllLanes, values[k].v[j], distance);
      }
    }
  }
  if (lane < columns) {
#pragma unroll
    for (int k = 0; k < kUsed; ++k) {
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        sums.of_warp[k][warp_id()][lane * kVec + j] = values[k].v[j];
      }
    }
  }
  __syncthreads();  // every warp's sums are written before any are added
  for (int c = rank; c < channels; c += threads) {
    float total[kUsed] = {};
    for (int warp = 0; warp < warps; ++warp) {
#pragma unroll
      for (int k = 0; k < kUsed; ++k) total[k] += sums.of_warp[k][warp][c];
    }
    per_channel(c, total);
    if (set == 1) per_set(c, total);
#pragma unroll
    for (int k = 0; k < kUsed; ++k) {
      (set == 1 ? sums.result : sums.of_channel)[k][c] = total[k];
    }
  }
  __syncthreads();  // every channel's sums are written; and the warps' are read, for the next call
  if (set == 1) return;
  for (int c = rank; c < channels; c += threads) {
    float total[kUsed] = {};
    const int first = c / set * set;
    for (int i = first; i < first + set; ++i) {
#pragma unroll
      for (int k = 0; k < kUsed; ++k) total[k] += sums.of_channel[k][i];
    }
    per_set(c, total);
#pragma unroll
    for (int k = 0; k < kUsed; ++k) sums.result[k][c] = total[k];
  }
  __syncthreads();  // every set's sums are written
}

}  // namespace sidechannel::kernels::device
