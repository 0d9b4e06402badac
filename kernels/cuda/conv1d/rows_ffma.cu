// Row products of conv1d in fp32: C_in = C_out = h, 3 or 5 taps. The problem is defined
// in kernels.h.
//
// A block computes a tile of positions of one sample x all h columns. Its threads form kGroups
// groups: each computes the whole tile, but sums only every kGroups-th pair of channels, so that
// there are warps enough to hide latencies although each thread has many sums (the more it has, the
// fewer operands it reads for each). Within a group, h / 8 neighbouring threads share positions:
//
//   columns of a thread    4 * quad + {0, 1, 2, 3} and the same h / 2 further on, quad < h / 8
//   positions of a thread  kRun neighbours; their inputs, of two channels, serve all taps
//
// Operands come in stages of 16 channels, each copied in the background while the one before is
// multiplied.
//
// Order of a sum: in a group, pair by pair of channels, tap by tap, then the two channels. Then the
// groups' sums one after the other, last the start.

#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/conv1d/device/index.cuh"
#include "kernels/cuda/conv1d/device/stage.cuh"
#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

namespace sidechannel::kernels {
namespace {

using device::kStageChannels;
using device::load2;
using device::load4;

// Where rows of weights lie in a stage. Lanes that read at once, of h / 8 different quads, take
//
//   - 4 columns at 4 * quad of one row: neighbours as they are;
//   - flipped: 2 channels of the rows of columns 4 * quad + e: these rows are made neighbours, and
//     rows are an odd multiple of 4 banks apart.
template <int kChannels, bool kFlipped>
struct FfmaPlace {
  static constexpr int kColumns = kChannels;
  static constexpr bool kFlip = kFlipped;
  static constexpr int kRows = kFlip ? kChannels : kStageChannels;
  static constexpr int kWidth = kFlip ? kStageChannels : kChannels;
  static constexpr int kPitch = kFlip ? kWidth + 4 : kWidth;

  // Of column j = h / 2 * side + 4 * quad + e: (4 * side + e) * h / 8 + quad.
  __device__ static constexpr int place(int row) {
    constexpr int kHalf = kChannels / 2;
    constexpr int kQuads = kChannels / 8;
    return kFlip ? (row / kHalf * 4 + row % 4) * kQuads + row % kHalf / 4 : row;
  }
};

// What a stage holds: 16 channels of x, and their weights for all columns and taps, as they stand
// in the layer's memory: a row of columns for each tap and channel; flipped, a row of channels for
// each tap and column.
template <class Place, int kTaps, int kPositions>
struct Stage {
  device::Planes<kStageChannels, kPositions + kTaps - 1> x;
  alignas(16) float w[kTaps][Place::kRows][Place::kPitch];
};

// Begins to copy a stage, from channel c0 on. Each thread copies one chunk of weights for each tap.
template <int kThreads, class Place, int kTaps, int kPositions>
__device__ __forceinline__ void begin_stage(const NarrowProduct& p, const device::RowTile& tile,
                                            int c0, Stage<Place, kTaps, kPositions>& stage) {
  constexpr int kColumns = Place::kColumns;
  const int thread = static_cast<int>(threadIdx.x);
  stage.x.template for_own_chunks<kThreads, kColumns>(
      thread, p.x + std::int64_t{tile.n} * p.length * kColumns, p.length, c0, tile.first - p.offset,
      tile.count + kTaps - 1, device::BeginCopy());
  constexpr int kQuads = Place::kWidth / 4;
  static_assert(kThreads == kQuads * Place::kRows);
  const int row = thread / kQuads;
  const int quad = thread % kQuads;
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap) {
    const float* from = Place::kFlip ? p.w + ((kTaps - 1 - tap) * kColumns + row) * kColumns + c0
                                     : p.w + (tap * kColumns + c0 + row) * kColumns;
    device::ptx::cp_async(&stage.w[tap][Place::place(row)][4 * quad], from + 4 * quad, true);
  }
  device::ptx::cp_async_commit_group();
}

template <int kChannels, int kTaps, int kWarps, int kRun, int kGroups, bool kFlip>
struct FfmaRows {
  static constexpr int kQuads = kChannels / 8;
  static constexpr int kGroupThreads = kWarps * 32;
  static constexpr int kThreads = kGroupThreads * kGroups;
  static constexpr int kPositions = kGroupThreads / kQuads * kRun;
  using Place = FfmaPlace<kChannels, kFlip>;
  using Stages = Stage<Place, kTaps, kPositions>[2];
  // The sums of all groups but the first, after the stages are done with.
  using Sums = float[kGroups - 1][8 * kRun][kGroupThreads];
  static constexpr std::size_t kShared = sizeof(Stages) > sizeof(Sums) ? sizeof(Stages)
                                                                       : sizeof(Sums);
};

// The thread's eight weights of channels c and c + 1: columns as above.
struct Weights {
  float at[2][8];
};

template <class Place>
__device__ __forceinline__ Weights load_weights(const float (*w)[Place::kPitch], int c, int quad) {
  Weights weights;
#pragma unroll
  for (int side = 0; side < 2; ++side) {
    if constexpr (Place::kFlip) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float2 two = load2(&w[(4 * side + e) * (Place::kColumns / 8) + quad][c]);
        weights.at[0][4 * side + e] = two.x;
        weights.at[1][4 * side + e] = two.y;
      }
    } else {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float4 four = load4(&w[c + i][Place::kColumns / 2 * side + 4 * quad]);
        weights.at[i][4 * side + 0] = four.x;
        weights.at[i][4 * side + 1] = four.y;
        weights.at[i][4 * side + 2] = four.z;
        weights.at[i][4 * side + 3] = four.w;
      }
    }
  }
  return weights;
}

template <int kChannels, int kTaps, int kWarps, int kRun, int kGroups, bool kFlip>
__global__ void __launch_bounds__(kWarps * 32 * kGroups, 1) ffma_rows_kernel(NarrowProduct p) {
  device::after_earlier_launches();
  using Rows = FfmaRows<kChannels, kTaps, kWarps, kRun, kGroups, kFlip>;
  const int group = static_cast<int>(threadIdx.x) / Rows::kGroupThreads;
  const int rank = static_cast<int>(threadIdx.x) % Rows::kGroupThreads;
  const int quad = rank % Rows::kQuads;
  const int position = rank / Rows::kQuads * kRun;
  const device::RowTile tile(p, Rows::kPositions);

  float sum[8][kRun] = {};
  const auto multiply = [&](const auto& stage) {
#pragma unroll 1
    for (int c = 2 * group; c < kStageChannels; c += 2 * kGroups) {
      float2 x[kRun + kTaps - 1];
#pragma unroll
      for (int i = 0; i < kRun + kTaps - 1; ++i) {
        x[i] = load2(&stage.x.at[c / 4][position + i][c % 4]);
      }
#pragma unroll
      for (int tap = 0; tap < kTaps; ++tap) {
        const Weights w = load_weights<typename Rows::Place>(stage.w[tap], c, quad);
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
#pragma unroll
          for (int o = 0; o < 8; ++o) sum[o][i] += w.at[0][o] * x[i + tap].x;
        }
#pragma unroll
        for (int i = 0; i < kRun; ++i) {
#pragma unroll
          for (int o = 0; o < 8; ++o) sum[o][i] += w.at[1][o] * x[i + tap].y;
        }
      }
    }
  };

  auto& stages = *device::dynamic_shared<typename Rows::Stages>();
  begin_stage<Rows::kThreads>(p, tile, 0, stages[0]);
#pragma unroll 1
  for (int c0 = 0, s = 0; c0 < kChannels; c0 += kStageChannels, s ^= 1) {
    if (c0 + kStageChannels < kChannels) {
      begin_stage<Rows::kThreads>(p, tile, c0 + kStageChannels, stages[s ^ 1]);
      device::ptx::cp_async_wait_group<1>();
    } else {
      device::ptx::cp_async_wait_group<0>();
    }
    __syncthreads();  // the stage is complete, with what the other threads copied
    multiply(stages[s]);
    __syncthreads();  // all have read it, before it is filled again
  }

  // The first group adds the others' sums to its own.
  auto& others = *device::dynamic_shared<typename Rows::Sums>();
  if (group > 0) {
#pragma unroll
    for (int o = 0; o < 8; ++o) {
#pragma unroll
      for (int i = 0; i < kRun; ++i) others[group - 1][o * kRun + i][rank] = sum[o][i];
    }
  }
  __syncthreads();  // the others' sums stand
  if (group > 0) return;
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
#pragma unroll
    for (int o = 0; o < 8; ++o) {
#pragma unroll
      for (int g = 0; g < kGroups - 1; ++g) sum[o][i] += others[g][o * kRun + i][rank];
    }
    if (position + i >= tile.count) continue;
    const std::int64_t row =
        (std::int64_t{tile.n} * p.length_out + tile.first + position + i) * kChannels;
    device::store(p, row, 4 * quad, make_float4(sum[0][i], sum[1][i], sum[2][i], sum[3][i]));
    device::store(p, row, kChannels / 2 + 4 * quad,
                  make_float4(sum[4][i], sum[5][i], sum[6][i], sum[7][i]));
  }
}

template <int kChannels, int kTaps, int kWarps, int kRun, int kGroups>
void ffma_rows(CudaQueue& queue, const NarrowProduct& p) {
  using Forward = FfmaRows<kChannels, kTaps, kWarps, kRun, kGroups, false>;
  using Flipped = FfmaRows<kChannels, kTaps, kWarps, kRun, kGroups, true>;
  Launch how;
  how.grid = Grid{std::int64_t{p.batch} * ceil_div(p.length_out, Forward::kPositions)};
  how.block = dim3(Forward::kThreads);
  how.dynamic_shared = p.flip ? Flipped::kShared : Forward::kShared;
  launch(queue, "conv1d rows, fp32",
         p.flip ? ffma_rows_kernel<kChannels, kTaps, kWarps, kRun, kGroups, true>
                : ffma_rows_kernel<kChannels, kTaps, kWarps, kRun, kGroups, false>,
         how, p);
}

template <int kChannels, int kTaps, int kWarps, int kRun, int kGroups>
constexpr RowVariant variant(const char* name) {
  using Forward = FfmaRows<kChannels, kTaps, kWarps, kRun, kGroups, false>;
  using Flipped = FfmaRows<kChannels, kTaps, kWarps, kRun, kGroups, true>;
  constexpr std::size_t kShared = std::max(Forward::kShared, Flipped::kShared);
  return {name, Needs::hidden(kChannels, kTaps, kShared), Forward::kPositions, 3,
          ffma_rows<kChannels, kTaps, kWarps, kRun, kGroups>};
}

}  // namespace

const RowVariant kFfmaRows[8] = {
    variant<64, 5, 4, 10, 2>("fp32 h = 64, 160 positions"),
    variant<64, 5, 2, 4, 4>("fp32 h = 64, 32 positions"),
    variant<32, 5, 2, 10, 2>("fp32 h = 32, 160 positions"),
    variant<32, 5, 1, 4, 4>("fp32 h = 32, 32 positions"),
    variant<64, 3, 4, 10, 2>("fp32 h = 64, 3 taps, 160 positions"),
    variant<64, 3, 2, 4, 4>("fp32 h = 64, 3 taps, 32 positions"),
    variant<32, 3, 2, 10, 2>("fp32 h = 32, 3 taps, 160 positions"),
    variant<32, 3, 1, 4, 4>("fp32 h = 32, 3 taps, 32 positions"),
};

}  // namespace sidechannel::kernels
