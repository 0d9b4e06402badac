// Row products of conv1d on tensor cores: C_in = C_out = h, 5 taps, TF32 operands, fp32 sums. The
// problem is defined in conv1d_kernels.h, how operands come into shared memory in
// device/conv1d_stage.cuh.
//
// A block computes a tile of positions of one sample x all h columns, a warp 8 * kTiles positions
// of it x all h columns, as kTiles * h / 16 products of mma.sync m16n8k8. There the rows (m) are
// columns of y, the columns (n) are positions, and the sum (k) runs over channels. Which row,
// column or k stands for which is chosen such that every operand is a 16-byte read without bank
// conflicts, and every result a 16-byte store. With g = lane / 4 and t4 = lane % 4:
//
//   k     channel 4 * t4 + 2 * step + {0, 1} of the stage's 16, for k = t4 and t4 + 4, step = 0, 1
//   n     position 8 * j + g / 2 + 4 * (g % 2) of the warp's, j < kTiles
//   m     column 32 * block + 4 * g + 2 * half + {0, 1}, for m = g and g + 8, half = 0, 1
//
// Order of a sum: 16 channels after the other; in each, tap by tap, then the two steps of 8
// channels, whose sum the tensor core takes in an order of its own. The start is added last.

#include <cuda_runtime.h>

#include "kernels/cuda/conv1d_kernels.h"
#include "kernels/cuda/device/conv1d_index.cuh"
#include "kernels/cuda/device/conv1d_stage.cuh"
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/launch.h"

namespace sidechannel::kernels {
namespace {

using device::kStageChannels;
using device::kTaps;
using device::load4;

// Where rows of weights lie in a stage. Eight lanes that read at once, two g and four t4, take
//
//   - 4 columns at 4 * g of four rows, one of each t4 (channels 4 apart): these four rows are made
//     neighbours, and rows are 8 banks more than a multiple of 32 apart;
//   - flipped: 4 channels at 4 * t4 of two rows, one of each g (columns 4 apart): rows of equal
//     column % 4 are made neighbours, and rows are 16 banks apart.
template <int kChannels, bool kFlipped>
struct MmaPlace {
  static constexpr int kColumns = kChannels;
  static constexpr bool kFlip = kFlipped;
  static constexpr int kRows = kFlip ? kChannels : kStageChannels;
  static constexpr int kWidth = kFlip ? kStageChannels : kChannels;
  static constexpr int kPitch = kFlip ? kWidth : kWidth + 8;

  __device__ static constexpr int place(int row) {
    return kFlip ? row / 32 * 32 + row % 4 * 8 + row / 4 % 8 : row % 4 * 4 + row / 4;
  }
};

// The left operands (a0, a1, a2, a3) of one tap and 32 columns: [half][step].
struct Weights {
  float at[2][2][4];
};

template <class Place>
__device__ __forceinline__ Weights load_weights(const float (*w)[Place::kPitch], int block, int g,
                                                int t4) {
  Weights a;
  if constexpr (Place::kFlip) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      // Four channels of column 4 * g + 2 * half, and of the next one.
      const float4 low = load4(&w[32 * block + 16 * half + g][4 * t4]);
      const float4 high = load4(&w[32 * block + 16 * half + 8 + g][4 * t4]);
      a.at[half][0][0] = low.x;
      a.at[half][0][1] = high.x;
      a.at[half][0][2] = low.y;
      a.at[half][0][3] = high.y;
      a.at[half][1][0] = low.z;
      a.at[half][1][1] = high.z;
      a.at[half][1][2] = low.w;
      a.at[half][1][3] = high.w;
    }
  } else {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      // Four columns of channel 4 * t4 + 2 * step, and of the next one.
      const float4 low = load4(&w[8 * step + t4][32 * block + 4 * g]);
      const float4 high = load4(&w[8 * step + 4 + t4][32 * block + 4 * g]);
      a.at[0][step][0] = low.x;
      a.at[0][step][1] = low.y;
      a.at[0][step][2] = high.x;
      a.at[0][step][3] = high.y;
      a.at[1][step][0] = low.z;
      a.at[1][step][1] = low.w;
      a.at[1][step][2] = high.z;
      a.at[1][step][3] = high.w;
    }
  }
  return a;
}

template <int kChannels, int kWarps, int kTiles, bool kFlip>
struct MmaRows {
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kPositions = kWarps * kTiles * 8;
  using Place = MmaPlace<kChannels, kFlip>;
  using Stage = device::RowStage<Place, kPositions>;
  static constexpr std::size_t kShared = 2 * sizeof(Stage);
};

template <int kChannels, int kWarps, int kTiles, bool kFlip>
__global__ void __launch_bounds__(kWarps * 32) mma_rows_kernel(RowProduct p) {
  using Rows = MmaRows<kChannels, kWarps, kTiles, kFlip>;
  constexpr int kBlocks = kChannels / 32;  // of 32 columns
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int g = lane / 4;
  const int t4 = lane % 4;
  const device::RowTile tile(p, Rows::kPositions);

  float sum[2 * kBlocks][kTiles][4] = {};
  device::for_stages<Rows::kThreads, true>(
      p, kChannels, tile.n, tile.first, tile.count, device::dynamic_shared<typename Rows::Stage>(),
      [&](const typename Rows::Stage& stage) {
        const int position = warp * kTiles * 8 + g / 2 + 4 * (g % 2);
#pragma unroll
        for (int tap = 0; tap < kTaps; ++tap) {
          float4 x[kTiles];  // channels 4 * t4 + {0, 1, 2, 3}
#pragma unroll
          for (int j = 0; j < kTiles; ++j) x[j] = load4(stage.x.at[t4][position + 8 * j + tap]);
#pragma unroll
          for (int block = 0; block < kBlocks; ++block) {
            const Weights w = load_weights<typename Rows::Place>(stage.w.at[tap], block, g, t4);
#pragma unroll
            for (int step = 0; step < 2; ++step) {
#pragma unroll
              for (int half = 0; half < 2; ++half) {
                const float* a = w.at[half][step];
#pragma unroll
                for (int j = 0; j < kTiles; ++j) {
                  device::mma_tf32(sum[2 * block + half][j], a[0], a[1], a[2], a[3],
                                   step == 0 ? x[j].x : x[j].z, step == 0 ? x[j].y : x[j].w);
                }
              }
            }
          }
        }
      });

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
      for (int block = 0; block < kBlocks; ++block) {
        const auto& low = sum[2 * block][j];
        const auto& high = sum[2 * block + 1][j];
        device::store(p, row, 32 * block + 4 * g,
                      make_float4(low[e], low[2 + e], high[e], high[2 + e]));
      }
    }
  }
}

template <int kChannels, int kWarps, int kTiles>
void mma_rows(CudaQueue& queue, const RowProduct& p) {
  using Forward = MmaRows<kChannels, kWarps, kTiles, false>;
  using Flipped = MmaRows<kChannels, kWarps, kTiles, true>;
  Launch how;
  how.grid = dim3(p.batch * ceil_div(p.length_out, Forward::kPositions));
  how.block = dim3(Forward::kThreads);
  how.dynamic_shared = p.flip ? Flipped::kShared : Forward::kShared;
  launch(queue, "conv1d rows, TF32",
         p.flip ? mma_rows_kernel<kChannels, kWarps, kTiles, true>
                : mma_rows_kernel<kChannels, kWarps, kTiles, false>,
         how, p);
}

template <int kChannels, int kWarps, int kTiles>
RowVariant variant(const char* name) {
  using Forward = MmaRows<kChannels, kWarps, kTiles, false>;
  using Flipped = MmaRows<kChannels, kWarps, kTiles, true>;
  return {name, kChannels, Forward::kPositions,
          Forward::kShared > Flipped::kShared ? Forward::kShared : Flipped::kShared,
          mma_rows<kChannels, kWarps, kTiles>};
}

}  // namespace

const std::vector<RowVariant>& tf32_mma_rows() {
  // Four warps, one for each of a multiprocessor's schedulers. The widest tile reads the fewest
  // bytes of shared memory for each product; the narrow ones are for short sequences and small
  // batches.
  static const std::vector<RowVariant> variants = {
      variant<64, 4, 5>("TF32 h = 64, 160 positions"),
      variant<64, 4, 2>("TF32 h = 64, 64 positions"),
      variant<64, 4, 1>("TF32 h = 64, 32 positions"),
      variant<32, 4, 5>("TF32 h = 32, 160 positions"),
      variant<32, 4, 2>("TF32 h = 32, 64 positions"),
      variant<32, 4, 1>("TF32 h = 32, 32 positions"),
  };
  return variants;
}

}  // namespace sidechannel::kernels
