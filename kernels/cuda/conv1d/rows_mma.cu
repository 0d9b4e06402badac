// Row products of conv1d on tensor cores: C_in = C_out = h, 3 or 5 taps, TF32 operands, fp32 sums.
// The problem is defined in kernels.h.
//
// A block computes a tile of positions of one sample x all h columns, in stages of 16 channels.
// Four of its warps multiply, four bring the next stage (conv1d/device/mma.cuh). A warp that
// multiplies computes 8 * kTiles positions x all h columns, as kTiles * h / 16 products of mma.sync
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

#include "kernels/cuda/conv1d/device/index.cuh"
#include "kernels/cuda/conv1d/device/mma.cuh"
#include "kernels/cuda/conv1d/device/stage.cuh"
#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

namespace sidechannel::kernels {
namespace {

using device::kHelpers;
using device::kStageChannels;
using device::LeftTile;
using device::load4;

constexpr int kWarps = 4;  // that multiply
constexpr int kThreads = kWarps * 32 + kHelpers;

template <int kChannels, int kTaps, int kPositions>
struct Stage {
  device::Planes<kStageChannels, kPositions + kTaps - 1> x;
  LeftTile w[kTaps][2][kChannels / 16];  // [tap][step][tile of 16 columns]
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

// The helpers' part: brings 16 channels of x and of the weights, from channel c0 on.
template <class W, int kChannels, int kTaps, int kPositions>
__device__ __forceinline__ void bring(const NarrowProduct& p, const device::RowTile& tile,
                                      int helper, int c0,
                                      Stage<kChannels, kTaps, kPositions>& stage) {
  constexpr int kPairs = kChannels / 32;
  const W weights(helper);
  const float* w = p.w + c0 / kStageChannels * W::stage_stride();
  // All loads are begun before the first result is needed.
  float4 loaded[kTaps][kPairs];
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      loaded[tap][pair] = load4(weights.source(w, tap, pair));
    }
  }
  using X = decltype(stage.x);
  const auto for_own_x = [&](auto visit) {
    stage.x.template for_own_chunks<kHelpers, kChannels>(
        helper, p.x + std::int64_t{tile.n} * p.length * kChannels, p.length, c0,
        tile.first - p.offset, tile.count + kTaps - 1, visit);
  };
  float4 x[X::template kPasses<kHelpers>];
  for_own_x([&x](int pass, float*, const float* global, bool inside) {
    x[pass] = inside ? load4(global) : make_float4(0, 0, 0, 0);
  });
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) {
#pragma unroll
    for (int pair = 0; pair < kPairs; ++pair) {
      weights.put(stage.w[tap], pair, device::to_tf32(loaded[tap][pair]));
    }
  }
  for_own_x([&x](int pass, float* shared, const float*, bool) {
    *reinterpret_cast<float4*>(shared) = device::to_tf32(x[pass]);
  });
}

template <int kChannels, int kTaps, int kTiles, bool kFlip>
__global__ void __launch_bounds__(kThreads, 1) mma_rows_kernel(NarrowProduct p) {
  constexpr int kPositions = kWarps * kTiles * 8;
  constexpr int kColumnTiles = kChannels / 16;
  using W = std::conditional_t<kFlip, FlippedWeights<kChannels, kTaps>, Weights<kChannels, kTaps>>;
  auto* stages = device::dynamic_shared<Stage<kChannels, kTaps, kPositions>>();
  const device::RowTile tile(p, kPositions);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int helper = static_cast<int>(threadIdx.x) - kWarps * 32;  // negative: multiplies
  const int g = lane / 4;
  const int t4 = lane % 4;

  float sum[kColumnTiles][kTiles][4] = {};
  const auto multiply = [&](const Stage<kChannels, kTaps, kPositions>& stage) {
    const int position = warp * kTiles * 8 + g / 2 + 4 * (g % 2);
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
          const float4 w = load4(stage.w[tap][step][i].unit[unit]);
#pragma unroll
          for (int j = 0; j < kTiles; ++j) {
            device::mma_tf32(sum[i][j], w, step == 0 ? x[j].x : x[j].z,
                             step == 0 ? x[j].y : x[j].w);
          }
        }
      }
    }
  };

  if (helper >= 0) bring<W>(p, tile, helper, 0, stages[0]);
  __syncthreads();  // the first stage is complete
#pragma unroll 1
  for (int c0 = 0, s = 0; c0 < kChannels; c0 += kStageChannels, s ^= 1) {
    if (helper < 0) {
      multiply(stages[s]);
    } else if (c0 + kStageChannels < kChannels) {
      bring<W>(p, tile, helper, c0 + kStageChannels, stages[s ^ 1]);
    }
    __syncthreads();  // this stage has been read, the next one is complete
  }
  if (helper >= 0) return;

    // The lane has n = 2 * t4 + {0, 1}, that is positions t4 and t4 + 4 of each tile of 8.
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int position = warp * kTiles * 8 + 8 * j + t4 + 4 * e;
      if (position >= tile.count) continue;
      const std::int64_t row =
          (std::int64_t{tile.n} * p.length_out + tile.first + position) * kChannels;
#pragma unroll
      for (int pair = 0; pair < kColumnTiles / 2; ++pair) {
        const auto& low = sum[2 * pair][j];
        const auto& high = sum[2 * pair + 1][j];
        device::store(p, row, 32 * pair + 4 * g,
                      make_float4(low[e], low[2 + e], high[e], high[2 + e]));
      }
    }
  }
}

template <int kChannels, int kTaps, int kTiles>
constexpr std::size_t kShared = 2 * sizeof(Stage<kChannels, kTaps, kWarps * kTiles * 8>);

template <int kChannels, int kTaps, int kTiles>
void mma_rows(CudaQueue& queue, const NarrowProduct& p) {
  Launch how;
  how.grid = Grid{std::int64_t{p.batch} * ceil_div(p.length_out, kWarps * kTiles * 8)};
  how.block = dim3(kThreads);
  how.dynamic_shared = kShared<kChannels, kTaps, kTiles>;
  launch(queue, "conv1d rows, TF32",
         p.flip ? mma_rows_kernel<kChannels, kTaps, kTiles, true>
                : mma_rows_kernel<kChannels, kTaps, kTiles, false>,
         how, p);
}

template <int kChannels, int kTaps, int kTiles>
constexpr RowVariant variant(const char* name) {
  return {name,
          Needs::hidden(kChannels, kTaps, Precision::kTf32, kShared<kChannels, kTaps, kTiles>),
          kWarps * kTiles * 8, 1, mma_rows<kChannels, kTaps, kTiles>};
}

}  // namespace

// The widest tile reads the fewest bytes of shared memory for each product; the narrow ones are for
// short sequences and small batches.
const RowVariant kMmaRows[10] = {
    variant<64, 5, 5>("TF32 h = 64, 160 positions"),
    variant<64, 5, 2>("TF32 h = 64, 64 positions"),
    variant<64, 5, 1>("TF32 h = 64, 32 positions"),
    variant<32, 5, 5>("TF32 h = 32, 160 positions"),
    variant<32, 5, 2>("TF32 h = 32, 64 positions"),
    variant<32, 5, 1>("TF32 h = 32, 32 positions"),
    variant<64, 3, 5>("TF32 h = 64, 3 taps, 160 positions"),
    variant<64, 3, 1>("TF32 h = 64, 3 taps, 32 positions"),
    variant<32, 3, 5>("TF32 h = 32, 3 taps, 160 positions"),
    variant<32, 3, 1>("TF32 h = 32, 3 taps, 32 positions"),
};

}  // namespace sidechannel::kernels
