// Row products of conv1d on tensor cores, as in conv1d_mma.cu, with every operand of a block on its
// way from the beginning: candidates for sm_90, which conv1d does not choose by itself.
//
// A block computes a tile of positions of one sample x all h columns. At its start all threads
// begin to copy everything that it reads into shared memory (cp.async), 16 channels after the
// other, and the same threads multiply 16 channels as soon as these are there. Operands lie in
// shared memory as in global memory and are rounded to TF32 where a fragment is read: to even,
// which is one instruction.
//
// A warp computes 8 * kTiles positions x 32 * kPairs columns. Which row, column and k of mma.sync
// m16n8k8 stands for which is told in conv1d_mma.cu. Order of a sum: as there.

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

// kBlocks of such a shape run on one multiprocessor.
template <int kHidden, int kPositionWarps_, int kColumnWarps_, int kTiles_, int kBlocks_>
struct Shape {
  static constexpr int kChannels = kHidden;
  static constexpr int kColumnWarps = kColumnWarps_;
  static constexpr int kTiles = kTiles_;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int kThreads = 32 * kPositionWarps_ * kColumnWarps;
  static constexpr int kPositions = kPositionWarps_ * kTiles * 8;
  static constexpr int kPairs = kHidden / 32 / kColumnWarps;  // of tiles of 16 columns, of a warp
  static constexpr int kStages = kHidden / kStageChannels;
};

// The weights of 16 channels, by chunks of 16 bytes. As they stand in the layer's memory a chunk
// holds four neighbouring columns of a channel; flipped, four neighbouring channels of a column. So
// a lane of g and t4 needs four chunks for the columns 32 * pair + 4 * g + {0, 1, 2, 3} and the
// channels 4 * t4 + {0, 1, 2, 3}. Chunks are placed such that eight lanes, of two neighbouring g
// and all t4, read from eight different groups of banks.
template <int kChannels, bool kFlip>
struct Weights {
  static constexpr int kQuads = kFlip ? kStageChannels / 4 : kChannels / 4;
  static constexpr int kLines = kFlip ? kChannels : kStageChannels;
  alignas(16) float at[kTaps][kLines * kQuads][4];

  // Place of chunk `quad` of channel (or column) `line`.
  __device__ static constexpr int place(int line, int quad) {
    return kFlip ? (line * kQuads + quad) ^ (line / 4 % 2 * 4)
                 : line * kQuads + (quad ^ line / 4 * 2);
  }

  // Begins to copy, for the sum over channels from c0 on. Neighbouring threads take neighbouring
  // chunks.
  template <int kThreads>
  __device__ __forceinline__ void copy(const float* w, int c0) {
    constexpr int kPass = kThreads / kQuads;  // lines
    static_assert(kThreads % kQuads == 0 && kLines % kPass == 0);
    const int thread = static_cast<int>(threadIdx.x);
    const int quad = thread % kQuads;
    const int line = thread / kQuads;
    const float* from = w + line * kChannels + (kFlip ? c0 : c0 * kChannels) + 4 * quad;
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
#pragma unroll
      for (int first = 0; first < kLines; first += kPass) {
        constexpr int kTap = kChannels * kChannels;
        device::copy_async(at[tap][place(first + line, quad)],
                           from + (kFlip ? kTaps - 1 - tap : tap) * kTap + first * kChannels, true);
      }
    }
  }

  __device__ __forceinline__ void read(int tap, int pair, int g, int t4, float4 (&four)[4]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      four[i] = load4(
          at[tap][kFlip ? place(32 * pair + 4 * g + i, t4) : place(4 * t4 + i, 8 * pair + g)]);
    }
  }
};

template <class S, bool kFlip>
struct Stage {
  device::Planes<kStageChannels, S::kPositions + kTaps - 1> x;
  Weights<S::kChannels, kFlip> w;
};

// What a lane multiplies for one tap: 16 channels.
template <class S>
struct Fragments {
  float4 x[S::kTiles];
  float4 w[S::kPairs][4];
};

template <bool kRounded>
__device__ __forceinline__ float rounded(float x) {
  if constexpr (kRounded) return x;
  return device::to_even_tf32(x);
}

__device__ __forceinline__ float part(const float4& four, int i) {
  return i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w;
}

// kRounded: x and w are rounded to TF32 already.
template <class S, bool kFlip, bool kRounded>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks) async_rows_kernel(RowProduct p) {
  device::after_earlier_launches();
  auto* stages = device::dynamic_shared<Stage<S, kFlip>>();
  const device::RowTile tile(p, S::kPositions);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int g = thread % 32 / 4;
  const int t4 = thread % 4;
  const int first_pair = warp % S::kColumnWarps * S::kPairs;
  const int first_position = warp / S::kColumnWarps * S::kTiles * 8;

#pragma unroll
  for (int s = 0; s < S::kStages; ++s) {
    const int c0 = s * kStageChannels;
    stages[s].w.template copy<S::kThreads>(p.w, c0);
    stages[s].x.template for_own_chunks<S::kThreads, S::kChannels>(
        thread, p.x + std::int64_t{tile.n} * p.length * S::kChannels, p.length, c0,
        tile.first - p.offset, tile.count + kTaps - 1, device::BeginCopy());
    device::copy_async_commit();
  }
  float4 bias[S::kPairs] = {};
  if (p.bias != nullptr) {
#pragma unroll
    for (int pair = 0; pair < S::kPairs; ++pair) {
      bias[pair] = load4(p.bias + 32 * (first_pair + pair) + 4 * g);
    }
  }

  float sum[2 * S::kPairs][S::kTiles][4] = {};
#pragma unroll 1
  for (int s = 0; s < S::kStages; ++s) {
    device::copy_async_wait<S::kStages - 1>(S::kStages - 1 - s);
    __syncthreads();  // these 16 channels are there
    const Stage<S, kFlip>& stage = stages[s];
    const auto read = [&](int tap, Fragments<S>& to) {
      const int position = first_position + g / 2 + 4 * (g % 2) + tap;
#pragma unroll
      for (int j = 0; j < S::kTiles; ++j) {
        to.x[j] = load4(stage.x.at[t4][position + 8 * j]);
      }
#pragma unroll
      for (int pair = 0; pair < S::kPairs; ++pair) {
        stage.w.read(tap, first_pair + pair, g, t4, to.w[pair]);
      }
    };
    Fragments<S> fragments[2];
    read(0, fragments[0]);
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
      const Fragments<S>& now = fragments[tap % 2];
      if (tap + 1 < kTaps) read(tap + 1, fragments[(tap + 1) % 2]);
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        // Rounded where they are multiplied: into the registers in which they must lie.
        float x[S::kTiles][2];
#pragma unroll
        for (int j = 0; j < S::kTiles; ++j) {
          x[j][0] = rounded<kRounded>(part(now.x[j], 2 * step));
          x[j][1] = rounded<kRounded>(part(now.x[j], 2 * step + 1));
        }
#pragma unroll
        for (int i = 0; i < 2 * S::kPairs; ++i) {
          // Of column 2 * tile + {0, 1}, at channel 2 * step + {0, 1}.
          const auto w = [&](int column, int channel) {
            column += i % 2 * 2;
            channel += step * 2;
            return rounded<kRounded>(
                part(now.w[i / 2][kFlip ? column : channel], kFlip ? channel : column));
          };
          const float a[4] = {w(0, 0), w(1, 0), w(0, 1), w(1, 1)};
#pragma unroll
          for (int j = 0; j < S::kTiles; ++j) {
            device::mma_tf32(sum[i][j], a[0], a[1], a[2], a[3], x[j][0], x[j][1]);
          }
        }
      }
    }
  }

  // The lane has n = 2 * t4 + {0, 1}, that is positions t4 and t4 + 4 of each tile of 8.
#pragma unroll
  for (int j = 0; j < S::kTiles; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int position = first_position + 8 * j + t4 + 4 * e;
      if (position >= tile.count) continue;
      float* y = p.y +
                 (std::int64_t{tile.n} * p.length_out + tile.first + position) * S::kChannels +
                 32 * first_pair + 4 * g;
#pragma unroll
      for (int pair = 0; pair < S::kPairs; ++pair) {
        const auto& low = sum[2 * pair][j];
        const auto& high = sum[2 * pair + 1][j];
        float4 out = make_float4(low[e] + bias[pair].x, low[2 + e] + bias[pair].y,
                                 high[e] + bias[pair].z, high[2 + e] + bias[pair].w);
        auto* to = reinterpret_cast<float4*>(y + 32 * pair);
        if (p.write == Write::kAccumulate) {
          const float4 old = *to;
          out = make_float4(out.x + old.x, out.y + old.y, out.z + old.z, out.w + old.w);
        }
        *to = out;
      }
    }
  }
}

template <class S>
constexpr std::size_t kShared = S::kStages * sizeof(Stage<S, false>);

template <class S, bool kRounded>
void async_rows(CudaQueue& queue, const RowProduct& p) {
  static_assert(sizeof(Stage<S, false>) == sizeof(Stage<S, true>));
  Launch how;
  how.grid = dim3(p.batch * ceil_div(p.length_out, S::kPositions));
  how.block = dim3(S::kThreads);
  how.dynamic_shared = kShared<S>;
  launch(queue, "conv1d rows, TF32, copies in the background",
         p.flip ? async_rows_kernel<S, true, kRounded> : async_rows_kernel<S, false, kRounded>, how,
         p);
}

template <class S, bool kRounded>
RowVariant variant(const char* name) {
  return {name, S::kChannels, S::kPositions, kShared<S>, async_rows<S, kRounded>};
}

}  // namespace

const std::vector<RowVariant>& tf32_async_rows() {
  static const std::vector<RowVariant> variants = {
      variant<Shape<64, 4, 2, 5, 1>, false>("TF32 async, h = 64, 160 positions, 8 warps"),
      variant<Shape<64, 4, 1, 5, 1>, false>("TF32 async, h = 64, 160 positions, 4 warps"),
      variant<Shape<64, 2, 2, 5, 2>, false>("TF32 async, h = 64, 80 positions, 4 warps"),
      variant<Shape<64, 4, 2, 2, 2>, false>("TF32 async, h = 64, 64 positions, 8 warps"),
      variant<Shape<64, 2, 2, 4, 2>, false>("TF32 async, h = 64, 64 positions, 4 warps"),
      variant<Shape<64, 4, 2, 1, 2>, false>("TF32 async, h = 64, 32 positions, 8 warps"),
      variant<Shape<32, 4, 1, 5, 2>, false>("TF32 async, h = 32, 160 positions, 4 warps"),
      variant<Shape<32, 4, 1, 1, 4>, false>("TF32 async, h = 32, 32 positions, 4 warps"),
  };
  return variants;
}

const std::vector<RowVariant>& tf32_rounded_rows() {
  static const std::vector<RowVariant> variants = {
      variant<Shape<64, 4, 2, 5, 1>, true>("TF32 rounded, h = 64, 160 positions, 8 warps"),
      variant<Shape<64, 4, 1, 5, 1>, true>("TF32 rounded, h = 64, 160 positions, 4 warps"),
      variant<Shape<64, 2, 2, 5, 2>, true>("TF32 rounded, h = 64, 80 positions, 4 warps"),
  };
  return variants;
}

}  // namespace sidechannel::kernels
