#pragma once

// Row products of conv1d by Hopper's products of warp groups (wgmma, sm_90a), C_in = C_out = 64,
// TF32 operands, fp32 sums: for layers with a normalization (conv_norm_act/).
//
// A block computes a tile of positions of one sample x all columns: columns are rows (m) of the
// products, positions their columns (n), and the next tap is the same operand 16 bytes further on.
// Everything that a block reads has a place of its own in shared memory, so that nobody waits for
// room. Its stages of 16 channels are
//
// - weights, rounded and packed in the order in which they are multiplied (PackedStage), brought
//   by bulk copies: each block of a cluster brings its share to all of them;
// - rows, brought by helpers, who put them through the source;
//
// and a barrier counts both. Each group of 128 threads multiplies its positions as the stages come.
//
// Order of a sum: 16 channels after the other; in each, tap by tap, then two steps of 8 channels,
// whose sum the tensor core takes in an order of its own. The start is added last.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/conv1d/device/rows.cuh"
#include "kernels/cuda/device/dependency.cuh"
#include "kernels/cuda/device/shared.cuh"

namespace sidechannel::kernels::device {

// kGroups groups multiply, kGroupPositions positions each; kHelperGroups * 128 threads help.
template <int kOfTaps, int kGroups_, int kGroupPositions_, int kHelperGroups_, int kCluster_>
struct WgmmaShape {
  static constexpr int kChannels = 64;
  static constexpr int kTaps = kOfTaps;
  static constexpr int kGroups = kGroups_;
  static constexpr int kGroupPositions = kGroupPositions_;
  static constexpr int kCluster = kCluster_;
  static constexpr int kPositions = kGroups * kGroupPositions;
  static constexpr int kWorkers = 128 * kGroups;
  static constexpr int kRowHelpers = kHelperGroups_ * kHelpers;
  static constexpr int kThreads = kWorkers + kRowHelpers;
  static constexpr int kStages = kChannels / kStageChannels;
  static constexpr int kImages = 1;

  // What sinks ask, as in RowShape. Rows g and g + 8 of a warp's 16 are neighbouring columns.
  using Columns = float2;
  static constexpr int kSlots = 1;
  static constexpr int kParts = kGroups;
  static constexpr int kSkew = 4;
  static __device__ __forceinline__ int part() { return static_cast<int>(threadIdx.x) / 128; }
  static __device__ __forceinline__ int column(int /*slot*/) {
    return static_cast<int>(threadIdx.x) % 128 / 32 * 16 +
           2 * (static_cast<int>(threadIdx.x) % 32 / 4);
  }
};

// The weights of a stage, as they are packed: [tap][step of 8 channels][half][m][4 channels].
template <int kTaps, int kChannels = 64>
struct PackedStage {
  float at[kTaps][2][2][kChannels][4];

  // The column of y that is row m.
  static __device__ constexpr int column_of(int m) { return m / 16 * 16 + m % 8 * 2 + m % 16 / 8; }
};

template <class S, class Source, class Sink>
struct WgmmaRowMemory {
  struct Stage {
    PackedStage<S::kTaps> w;
    Planes<kStageChannels, S::kPositions + S::kTaps - 1> x;
  };
  alignas(128) Stage stages[S::kStages];
  std::uint64_t full[S::kStages];
  typename Source::Memory source;
  typename Sink::Memory sink;
};

// The bulk copies of this block's share of the weights.
template <class S, class Memory>
__device__ __forceinline__ void bring_weights(const float* packed, Memory& shared) {
  constexpr int kStage = sizeof(PackedStage<S::kTaps>) / sizeof(float);
  constexpr int kShare = kStage / S::kCluster;
  static_assert(kShare % 4 == 0);
  const int share = static_cast<int>(ptx::cluster_ctarank()) * kShare;
#pragma unroll
  for (int s = 0; s < S::kStages; ++s) {
    ptx::cp_async_bulk<S::kCluster>(&shared.stages[s].w.at[0][0][0][0][0] + share,
                                    packed + s * kStage + share, kShare * sizeof(float),
                                    &shared.full[s]);
  }
}

// What needs nothing of earlier launches: the barriers of all of a cluster's blocks, and weights
// that are `early`.
template <class S, class Memory>
__device__ __forceinline__ void begin_stages(const float* packed, bool early, Memory& shared) {
  const bool brings_weights = static_cast<int>(threadIdx.x) == S::kWorkers;
  if (brings_weights) {
#pragma unroll
    for (std::uint64_t& barrier : shared.full) {
      ptx::mbarrier_init(&barrier, S::kRowHelpers + 1);
      ptx::mbarrier_arrive_expect_tx(&barrier, sizeof(PackedStage<S::kTaps>));
    }
    ptx::fence_mbarrier_init();
  }
  if constexpr (S::kCluster > 1) {
    ptx::barrier_cluster();  // the barriers of all blocks stand
  } else {
    ptx::bar_sync<S::kThreads>();  // the barriers stand
  }
  if (early && brings_weights) bring_weights<S>(packed, shared);
}

// p.w is packed. Where `early`, it stood when the launch before this one began.
template <class S, class Source, class Sink>
__global__ void __launch_bounds__(S::kThreads, 1)
    wgmma_rows_kernel(NarrowProduct p, bool early, Source source, Sink sink) {
  after_earlier_launches(
      [&] { begin_stages<S>(p.w, early, *dynamic_shared<WgmmaRowMemory<S, Source, Sink>>()); });
  auto& shared = *dynamic_shared<WgmmaRowMemory<S, Source, Sink>>();
  const bool brings_weights = static_cast<int>(threadIdx.x) == S::kWorkers;
  if (!early && brings_weights) bring_weights<S>(p.w, shared);
  const RowTile tile(p, S::kPositions);
  const int helper = static_cast<int>(threadIdx.x) - S::kWorkers;  // negative: multiplies

  if (helper >= 0) {
    using Rows = BroughtRows<S, Source>;
    Rows rows;
    rows.load(p, source, tile, helper, 0, shared.stages[0].x);
    sink.template begin<S>(p, tile, helper, shared.sink);
    source.template begin<S>(p, tile, shared.source);
#pragma unroll 1
    for (int s = 0; s < S::kStages; ++s) {
      rows.put(p, source, shared.source, tile, helper, s * kStageChannels, shared.stages[s].x);
      ptx::fence_proxy_async();
      ptx::mbarrier_arrive(&shared.full[s]);
      if (s + 1 < S::kStages) {
        rows.load(p, source, tile, helper, (s + 1) * kStageChannels, shared.stages[s + 1].x);
      }
    }
    sink.template finish<S>(p, tile, shared.sink, [](auto) {});
    return;
  }

  source.template begin<S>(p, tile, shared.source);
  const int group = static_cast<int>(threadIdx.x) / 128;
  float sum[S::kGroupPositions / 2];
#pragma unroll
  for (int s = 0; s < S::kStages; ++s) {
    auto& [w, x] = shared.stages[s];
    ptx::mbarrier_wait(&shared.full[s], 0);
    ptx::wgmma_fence();
#pragma unroll
    for (int tap = 0; tap < S::kTaps; ++tap) {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        ptx::wgmma_m64k8_tf32(
            sum, ptx::wgmma_descriptor(w.at[tap][step][0][0], sizeof w.at[tap][step][0]),
            ptx::wgmma_descriptor(x.at[2 * step][group * S::kGroupPositions + tap], sizeof x.at[0]),
            s + tap + step > 0);
      }
    }
    ptx::wgmma_commit_group();
  }
  ptx::wgmma_wait_group<0>(sum);

  const int column = S::column(0);
  const int first_position = group * S::kGroupPositions + 2 * (static_cast<int>(threadIdx.x) % 4);
  const auto each = [&](auto visit) {
#pragma unroll
    for (int j = 0; j < S::kGroupPositions / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int position = first_position + 8 * j + e;
        if (position >= tile.count) continue;
        visit(0, position, column, make_float2(sum[4 * j + e], sum[4 * j + 2 + e]));
      }
    }
  };
  sink.template finish<S>(p, tile, shared.sink, each);
}

}  // namespace sidechannel::kernels::device
