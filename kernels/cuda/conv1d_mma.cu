// Row products of conv1d on tensor cores: C_in = C_out = h, 5 taps, TF32 operands, fp32 sums. The
// problem is defined in conv1d_kernels.h.
//
// A block computes a tile of positions of one sample x all h columns, in stages of 16 channels.
// Some of its warps multiply, four bring the next stage (device/conv1d_mma.cuh). A warp that
// multiplies computes 8 * kTiles positions x 16 * kColumnTiles columns, in products of mma.sync
// m16n8k8, in which rows (m) are columns of y, columns (n) are positions, and the sum (k) runs over
// channels. Which row, column or k stands for which is chosen such that every operand is a read of
// 16 bytes without bank conflicts, and every result a store of 16 bytes. With g = lane / 4 and t4 =
// lane % 4:
//
//   k     channel 4 * t4 + 2 * step + {0, 1} of the stage's 16, for k = t4 and t4 + 4, step = 0, 1
//   n     position 8 * j + g / 2 + 4 * (g % 2) of the warp's, j < kTiles
//   m     column 32 * pair + 4 * g + 2 * tile + {0, 1}, for m = g and g + 8, tile = 0, 1
//
// Order of a sum: 16 channels after the other; in each, tap by tap, then the two steps of 8
// channels, whose sum the tensor core takes in an order of its own. The start is added last.

#include <cuda_runtime.h>

#include <type_traits>

#include "kernels/cuda/conv1d_kernels.h"
#include "kernels/cuda/device/conv1d_index.cuh"
#include "kernels/cuda/device/conv1d_mma.cuh"
#include "kernels/cuda/device/conv1d_stage.cuh"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/launch.h"

namespace sidechannel::kernels {
namespace {

using device::kHelpers;
using device::kStageChannels;
using device::kTaps;
using device::LeftTile;
using device::load4;

// kPositionWarps x kColumnWarps warps multiply. kAhead: the helpers load what they put into shared
// memory a stage later.
template <int kHidden, int kTiles_, int kPositionWarps_ = 4, int kColumnWarps_ = 1,
          bool kAhead_ = false>
struct Shape {
  static constexpr int kChannels = kHidden;
  static constexpr int kTiles = kTiles_;
  static constexpr int kColumnWarps = kColumnWarps_;
  static constexpr bool kAhead = kAhead_;
  static constexpr int kWorkers = 32 * kPositionWarps_ * kColumnWarps;  // threads that multiply
  static constexpr int kThreads = kWorkers + kHelpers;
  static constexpr int kPositions = kPositionWarps_ * kTiles * 8;
  static constexpr int kColumnTiles = kHidden / 16 / kColumnWarps;  // of a warp
};

template <class S>
struct Stage {
  device::Planes<kStageChannels, S::kPositions + kTaps - 1> x;
  LeftTile w[kTaps][2][S::kChannels / 16];  // [tap][step][tile of 16 columns]
};

// The four weights of a helper in each of its passes: kChannels / 32 for each tap.
//
// As they stand in the layer's memory, four neighbouring columns of a channel. Helper warp t4 takes
// channels 4 * t4 + {0, 1, 2, 3}, and of each eight lanes take the columns 4 * g of a pair of
// tiles.
template <int kChannels>
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
template <int kChannels>
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

// The helpers' part: 16 channels of x and of the weights, from channel c0 on, on their way.
template <class S, class W>
struct Brought {
  static constexpr int kPairs = S::kChannels / 32;
  using X = decltype(Stage<S>::x);
  float4 w[kTaps][kPairs];
  float4 x[X::template kPasses<kHelpers>];

  // Calls visit for each chunk of x that is the helper's (device::Planes).
  template <class Visit>
  static __device__ __forceinline__ void for_own_x(const RowProduct& p, const device::RowTile& tile,
                                                   int helper, int c0, X& x, Visit visit) {
    x.template for_own_chunks<kHelpers, S::kChannels>(
        helper, p.x + std::int64_t{tile.n} * p.length * S::kChannels, p.length, c0,
        tile.first - p.offset, tile.count + kTaps - 1, visit);
  }

  // All loads are begun before the first result is needed.
  __device__ __forceinline__ void load(const RowProduct& p, const device::RowTile& tile, int helper,
                                       int c0, Stage<S>& stage) {
    const W weights(helper);
    const float* from = p.w + c0 / kStageChannels * W::stage_stride();
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair)
        w[tap][pair] = load4(weights.source(from, tap, pair));
    }
    for_own_x(p, tile, helper, c0, stage.x,
              [&](int pass, float*, const float* global, bool inside) {
                x[pass] = inside ? load4(global) : make_float4(0, 0, 0, 0);
              });
  }

  __device__ __forceinline__ void put(const RowProduct& p, const device::RowTile& tile, int helper,
                                      int c0, Stage<S>& stage) const {
    const W weights(helper);
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
#pragma unroll
      for (int pair = 0; pair < kPairs; ++pair) {
        weights.put(stage.w[tap], pair, device::to_tf32(w[tap][pair]));
      }
    }
    for_own_x(p, tile, helper, c0, stage.x, [&](int pass, float* shared, const float*, bool) {
      *reinterpret_cast<float4*>(shared) = device::to_tf32(x[pass]);
    });
  }
};

template <class S, bool kFlip>
__global__ void __launch_bounds__(S::kThreads, 1) mma_rows_kernel(RowProduct p) {
  device::after_earlier_launches();
  constexpr int kTiles = S::kTiles;
  constexpr int kColumnTiles = S::kColumnTiles;
  using W = std::conditional_t<kFlip, FlippedWeights<S::kChannels>, Weights<S::kChannels>>;
  auto* stages = device::dynamic_shared<Stage<S>>();
  const device::RowTile tile(p, S::kPositions);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int helper = static_cast<int>(threadIdx.x) - S::kWorkers;  // negative: multiplies
  const int g = lane / 4;
  const int t4 = lane % 4;
  const int first_position = warp / S::kColumnWarps * kTiles * 8;
  const int first_tile = warp % S::kColumnWarps * kColumnTiles;

  float sum[kColumnTiles][kTiles][4] = {};
  const auto multiply = [&](const Stage<S>& stage) {
    const int position = first_position + g / 2 + 4 * (g % 2);
    const int unit = LeftTile::unit_of(g, t4);
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
      float4 x[kTiles];  // channels 4 * t4 + {0, 1, 2, 3}
#pragma unroll
      for (int j = 0; j < kTiles; ++j) x[j] = load4(stage.x.at[t4][position + 8 * j + tap]);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int i = 0; i < kColumnTiles; ++i) {
          const float4 w = load4(stage.w[tap][step][first_tile + i].unit[unit]);
#pragma unroll
          for (int j = 0; j < kTiles; ++j) {
            device::mma_tf32(sum[i][j], w, step == 0 ? x[j].x : x[j].z,
                             step == 0 ? x[j].y : x[j].w);
          }
        }
      }
    }
  };

  Brought<S, W> brought;
  if (helper >= 0) {
    Brought<S, W> first;
    first.load(p, tile, helper, 0, stages[0]);
    if (S::kAhead) brought.load(p, tile, helper, kStageChannels, stages[1]);
    first.put(p, tile, helper, 0, stages[0]);
  }
  __syncthreads();  // the first stage is complete
#pragma unroll 1
  for (int c0 = 0, s = 0; c0 < S::kChannels; c0 += kStageChannels, s ^= 1) {
    const int next = c0 + kStageChannels;
    if (helper < 0) {
      multiply(stages[s]);
    } else if (next < S::kChannels) {
      if (!S::kAhead) brought.load(p, tile, helper, next, stages[s ^ 1]);
      brought.put(p, tile, helper, next, stages[s ^ 1]);
      if (S::kAhead && next + kStageChannels < S::kChannels) {
        brought.load(p, tile, helper, next + kStageChannels, stages[s]);  // put there later
      }
    }
    __syncthreads();  // this stage has been read, the next one is complete
  }
  if (helper >= 0) return;

    // The lane has n = 2 * t4 + {0, 1}, that is positions t4 and t4 + 4 of each tile of 8.
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int position = first_position + 8 * j + t4 + 4 * e;
      if (position >= tile.count) continue;
      const std::int64_t row =
          (std::int64_t{tile.n} * p.length_out + tile.first + position) * S::kChannels;
#pragma unroll
      for (int pair = 0; pair < kColumnTiles / 2; ++pair) {
        const auto& low = sum[2 * pair][j];
        const auto& high = sum[2 * pair + 1][j];
        device::store(p, row, 16 * first_tile + 32 * pair + 4 * g,
                      make_float4(low[e], low[2 + e], high[e], high[2 + e]));
      }
    }
  }
}

template <class S>
void mma_rows(CudaQueue& queue, const RowProduct& p) {
  Launch how;
  how.grid = dim3(p.batch * ceil_div(p.length_out, S::kPositions));
  how.block = dim3(S::kThreads);
  how.dynamic_shared = 2 * sizeof(Stage<S>);
  launch(queue, "conv1d rows, TF32", p.flip ? mma_rows_kernel<S, true> : mma_rows_kernel<S, false>,
         how, p);
}

template <class S>
RowVariant variant(const char* name) {
  return {name, S::kChannels, S::kPositions, 2 * sizeof(Stage<S>), mma_rows<S>};
}

}  // namespace

const std::vector<RowVariant>& tf32_mma_rows() {
  // The widest tile reads the fewest bytes of shared memory for each product; the narrow ones are
  // for short sequences and small batches.
  static const std::vector<RowVariant> variants = {
      variant<Shape<64, 5>>("TF32 h = 64, 160 positions"),
      variant<Shape<64, 2>>("TF32 h = 64, 64 positions"),
      variant<Shape<64, 1>>("TF32 h = 64, 32 positions"),
      variant<Shape<32, 5>>("TF32 h = 32, 160 positions"),
      variant<Shape<32, 2>>("TF32 h = 32, 64 positions"),
      variant<Shape<32, 1>>("TF32 h = 32, 32 positions"),
  };
  return variants;
}

const std::vector<RowVariant>& tf32_ahead_rows() {
  static const std::vector<RowVariant> variants = {
      variant<Shape<64, 5, 4, 1, true>>("TF32 ahead, h = 64, 160 positions, 4 warps"),
      variant<Shape<64, 5, 4, 2, true>>("TF32 ahead, h = 64, 160 positions, 8 warps"),
      variant<Shape<64, 2, 4, 2, true>>("TF32 ahead, h = 64, 64 positions, 8 warps"),
      variant<Shape<32, 1, 4, 1, true>>("TF32 ahead, h = 32, 32 positions, 4 warps"),
  };
  return variants;
}

}  // namespace sidechannel::kernels
