#pragma once

// Row products of conv1d on tensor cores, C_in = C_out = h, TF32 operands or split ones, fp32 sums:
// the kernel, for plain convolutions (rows_mma.cu) and for layers with a normalization
// (conv_norm_act/).
//
// A block computes a tile of positions of one sample x all h columns, in stages of 16 channels.
// Some of its warps multiply, four bring the next stage (conv1d/device/mma.cuh). A warp that
// multiplies computes 8 * kTiles positions x 16 * kColumnTiles columns, in products of mma.sync
// m16n8k8, in which rows (m) are columns of y, columns (n) are positions, and the sum (k) runs over
// channels. Which row, column or k stands for which is chosen such that every operand is a read of
// 16 bytes without bank conflicts, and every result a store of 16 bytes. With g = lane / 4 and t4 =
// lane % 4:
//
//   k     channel 4 * t4 + 2 * step + {0, 1} of the stage's 16, for k = t4 and t4 + 4, step = 0, 1
//   n     position 8 * j + g / 2 + 4 * (g % 2) of the warp's, j < kTiles
//   m     column 32 * pair + 4 * g + 2 * tile + {0, 1} of the warp's, for m = g and g + 8, tile =
//   0,
//         1
//
// Order of a sum: 16 channels after the other; in each, tap by tap, then the two steps of 8
// channels, whose sum the tensor core takes in an order of its own. The start is added last.
//
// Split operands are read a step at a time, with their small parts beside them, so that they take
// no more registers than four channels do: 16 bytes are those of two channels.

#include <cuda_runtime.h>

#include <type_traits>

#include "kernels/cuda/conv1d/device/mma.cuh"
#include "kernels/cuda/conv1d/device/rows.cuh"
#include "kernels/cuda/conv1d/device/stage.cuh"
#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/device/dependency.cuh"
#include "kernels/cuda/device/shared.cuh"

namespace sidechannel::kernels::device {

// kColumnWarps x 4 warps multiply. kAhead: the helpers load what they put into shared memory a
// stage later, so that no stage waits for global memory.
// A group of helpers takes every kHelperGroups-th 32 columns of the weights.
template <int kHidden, int kOfTaps, int kTiles_, int kColumnWarps_ = 1, bool kAhead_ = false,
          int kHelperGroups_ = 1>
struct RowShape {
  static constexpr int kChannels = kHidden;
  static constexpr int kTaps = kOfTaps;
  static constexpr int kTiles = kTiles_;
  static constexpr int kColumnWarps = kColumnWarps_;
  static constexpr int kPositionWarps = 4;
  static constexpr bool kAhead = kAhead_;
  static constexpr int kWorkers = 32 * kPositionWarps * kColumnWarps;  // threads that multiply
  static constexpr int kHelperGroups = kHelperGroups_;
  static constexpr int kRowHelpers = kHelperGroups * kHelpers;
  static constexpr int kThreads = kWorkers + kRowHelpers;
  static constexpr int kPositions = kPositionWarps * kTiles * 8;
  static constexpr int kColumnTiles = kHidden / 16 / kColumnWarps;  // of a warp
  static constexpr int kImages = 1;                                 // of an operand

  // What sinks ask: the neighbouring columns that a thread has of a position, kSlots such pieces,
  // and the block's parts of positions, each with all columns.
  using Columns = float4;
  static constexpr int kSlots = kColumnTiles / 2;
  static constexpr int kParts = kPositionWarps;
  static constexpr int kSkew = 8;  // floats between positions beside a sink's rows, for the banks
  static __device__ __forceinline__ int part() {
    return static_cast<int>(threadIdx.x) / 32 / kColumnWarps;
  }
  static __device__ __forceinline__ int column(int slot) {
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    return 16 * (warp % kColumnWarps * kColumnTiles) + 4 * (lane / 4) + 32 * slot;
  }
};

template <class S>
struct RowStage {
  // Of four channels, all; where they are split, two for each step, and their small parts.
  Planes<kStageChannels, S::kPositions + S::kTaps - 1> x[S::kImages];
  LeftTile w[S::kImages][S::kTaps][2][S::kChannels / 16];  // [tap][step][tile of 16 columns]
};

template <class S, class Source, class Sink>
struct RowMemory {
  RowStage<S> stages[2];
  typename Source::Memory source;
  typename Sink::Memory sink;
};

// The four weights of a helper in each of its passes: kChannels / 32 for each tap.
//
// As they stand in the layer's memory, four neighbouring columns of a channel. Helper warp t4 takes
// channels 4 * t4 + {0, 1, 2, 3}, and of each eight lanes take the columns 4 * g of a pair of
// tiles.
template <int kChannels, int kTaps>
struct Weights {
  int t4, g, channel;

  __device__ explicit Weights(int helper)
      : t4(helper / 32), g(helper % 8), channel(helper % 32 / 8) {}

  __device__ const float* source(const float* w, int tap, int pair) const {
    return w + (tap * kChannels + 4 * t4 + channel) * kChannels + 32 * pair + 4 * g;
  }
  __device__ static constexpr int stage_stride() { return kStageChannels * kChannels; }
  __device__ void put(LeftTile (*tiles)[kChannels / 16], int pair, float4 columns) const {
    device::put_rows(&tiles[channel / 2][2 * pair], g, t4, channel % 2, columns);
  }
};

// Flipped: four neighbouring channels of a column. Four lanes take the 16 channels of one.
template <int kChannels, int kTaps>
struct FlippedWeights {
  int t4, column;

  __device__ explicit FlippedWeights(int helper) : t4(helper % 4), column(helper / 4) {}

  __device__ const float* source(const float* w, int tap, int pair) const {
    return w + ((kTaps - 1 - tap) * kChannels + 32 * pair + column) * kChannels + 4 * t4;
  }
  __device__ static constexpr int stage_stride() { return kStageChannels; }
  __device__ void put(LeftTile (*tiles)[kChannels / 16], int pair, float4 channels) const {
    device::put_row(&tiles[0][2 * pair], column / 4, t4, column % 4, channels.x, channels.y);
    device::put_row(&tiles[1][2 * pair], column / 4, t4, column % 4, channels.z, channels.w);
  }
};

// The helpers' part: of the rows, and of the weights.
template <class S, class W, class Source>
struct Brought {
  static constexpr int kPairs = S::kChannels / 32 / S::kHelperGroups;  // of its group
  float4 w[S::kTaps][kPairs];
  BroughtRows<S, Source> rows;

  __device__ __forceinline__ void load(const NarrowProduct& p, const Source& source,
                                       const RowTile& tile, int helper, int c0,
                                       RowStage<S>& stage) {
    const W weights(helper % kHelpers);
    const int group = helper / kHelpers;
    const float* from = p.w + c0 / kStageChannels * W::stage_stride();
#pragma unroll
    for (int tap = 0; tap < S::kTaps; ++tap) {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        w[tap][pair] = load4(weights.source(from, tap, group + pair * S::kHelperGroups));
      }
    }
    rows.load(p, source, tile, helper, c0, stage.x[0]);
  }

  __device__ __forceinline__ void put(const NarrowProduct& p, const Source& source,
                                      const typename Source::Memory& memory, const RowTile& tile,
                                      int helper, int c0, RowStage<S>& stage) const {
    const W weights(helper % kHelpers);
    const int group = helper / kHelpers;
#pragma unroll
    for (int tap = 0; tap < S::kTaps; ++tap) {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        const float4 big = to_tf32(w[tap][pair]);
        weights.put(stage.w[0][tap], group + pair * S::kHelperGroups, big);
        if constexpr (S::kImages == 2) {
          weights.put(stage.w[1][tap], group + pair * S::kHelperGroups,
                      small_of_tf32(w[tap][pair], big));
        }
      }
    }
    rows.put(p, source, memory, tile, helper, c0, stage.x[0]);
  }
};

// The barrier between stages, which both roles reach. By name, as they reach it from different
// places; so with those of sources and sinks.
template <class S>
__device__ __forceinline__ void stage_barrier() {
  ptx::bar_sync<S::kThreads>();
}

template <class S, bool kFlip, class Source, class Sink>
__global__ void __launch_bounds__(S::kThreads, 1)
    mma_rows_kernel(NarrowProduct p, Source source, Sink sink) {
  after_earlier_launches();
  constexpr int kTiles = S::kTiles, kColumnTiles = S::kColumnTiles;
  using W = std::conditional_t<kFlip, FlippedWeights<S::kChannels, S::kTaps>,
                               Weights<S::kChannels, S::kTaps>>;
  using Brings = Brought<S, W, Source>;
  auto& shared = *dynamic_shared<RowMemory<S, Source, Sink>>();
  auto& stages = shared.stages;
  const RowTile tile(p, S::kPositions);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int helper = static_cast<int>(threadIdx.x) - S::kWorkers;  // negative: multiplies
  const int g = lane / 4;
  const int t4 = lane % 4;
  const int first_position = warp / S::kColumnWarps * kTiles * 8;
  const int first_tile = warp % S::kColumnWarps * kColumnTiles;

  // Each role has its own registers: what one holds over a barrier costs the other none.
  if (helper >= 0) {
    Brings brought;
    brought.load(p, source, tile, helper, 0, stages[0]);
    sink.template begin<S>(p, tile, helper, shared.sink);
    source.template begin<S>(p, tile, shared.source);
    brought.put(p, source, shared.source, tile, helper, 0, stages[0]);
    if (S::kAhead) brought.load(p, source, tile, helper, kStageChannels, stages[1]);
    stage_barrier<S>();
#pragma unroll 1
    for (int next = kStageChannels, s = 1; next < S::kChannels; next += kStageChannels, s ^= 1) {
      if (!S::kAhead) brought.load(p, source, tile, helper, next, stages[s]);
      brought.put(p, source, shared.source, tile, helper, next, stages[s]);
      if (S::kAhead && next + kStageChannels < S::kChannels) {
        brought.load(p, source, tile, helper, next + kStageChannels, stages[s ^ 1]);
      }
      stage_barrier<S>();
    }
    stage_barrier<S>();
    sink.template finish<S>(p, tile, shared.sink, [](auto) {});
    return;
  }

  float sum[kColumnTiles][kTiles][4] = {};
  const auto multiply = [&](const RowStage<S>& stage) {
    const int position = first_position + g / 2 + 4 * (g % 2);
    const int unit = LeftTile::unit_of(g, t4);
    const auto load_x = [&](int image, int tap, float4(&x)[kTiles]) {
#pragma unroll
      for (int j = 0; j < kTiles; ++j) x[j] = load4(stage.x[image].at[t4][position + 8 * j + tap]);
    };
    // Where they are split, registers are short, and the other warps hide what one waits for.
#pragma unroll(S::kImages == 1 ? S::kTaps : 1)
    for (int tap = 0; tap < S::kTaps; ++tap) {
      float4 x[kTiles];  // channels 4 * t4 + {0, 1, 2, 3}
      if constexpr (S::kImages == 1) load_x(0, tap, x);
#pragma unroll(S::kImages == 1 ? 2 : 1)
      for (int step = 0; step < 2; ++step) {
        if constexpr (S::kImages == 2) load_x(step, tap, x);
#pragma unroll
        for (int i = 0; i < kColumnTiles; ++i) {
          const float4 w = load4(stage.w[0][tap][step][first_tile + i].unit[unit]);
          if constexpr (S::kImages == 2) {
            const SplitLeft left = {w, load4(stage.w[1][tap][step][first_tile + i].unit[unit])};
            mma_split<kTiles>(
                left, [&](int j) -> float(&)[4] { return sum[i][j]; }, [&](int j) { return x[j]; });
          } else {
#pragma unroll
            for (int j = 0; j < kTiles; ++j) {
              mma_tf32(sum[i][j], w, step == 0 ? x[j].x : x[j].z, step == 0 ? x[j].y : x[j].w);
            }
          }
        }
      }
    }
  };

  source.template begin<S>(p, tile, shared.source);
  stage_barrier<S>();  // the first stage is complete
#pragma unroll 1
  for (int c0 = 0, s = 0; c0 < S::kChannels; c0 += kStageChannels, s ^= 1) {
    multiply(stages[s]);
    stage_barrier<S>();  // this stage has been read, the next one is complete
  }

  // The lane has n = 2 * t4 + {0, 1}, that is positions t4 and t4 + 4 of each tile of 8.
  const auto each = [&](auto visit) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int position = first_position + 8 * j + t4 + 4 * e;
        if (position >= tile.count) continue;
#pragma unroll
        for (int slot = 0; slot < S::kSlots; ++slot) {
          const auto& low = sum[2 * slot][j];
          const auto& high = sum[2 * slot + 1][j];
          visit(slot, position, S::column(slot),
                make_float4(low[e], low[2 + e], high[e], high[2 + e]));
        }
      }
    }
  };
  sink.template finish<S>(p, tile, shared.sink, each);
}

}  // namespace sidechannel::kernels::device
