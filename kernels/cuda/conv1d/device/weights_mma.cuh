#pragma once

// Parameter gradients of conv1d on tensor cores: C_in = C_out = h, 3 or 5 taps, TF32 operands or
// split ones, fp32 sums, first stage: the kernel, for one convolution (weights_mma.cu) and for
// layers in a row (conv_norm_act/). The problem is defined in kernels.h.
//
//   dw[t, ci, co] = sum over positions l of x[l + t - padding, ci] * dy[l, co]
//
// A block sums a slice of h / 2 input channels x all h output channels x all taps over one split:
// grid.x counts slices, grid.y splits, grid.z layers. Four of its warps multiply chunks of 64
// positions, eight (of split operands four, whose registers the others need) bring the next chunk
// and sum the bias gradient from what they bring, before it is rounded.
//
// A warp that multiplies sums 32 co x 16 ci x all taps, as 2 x 2 * taps products of mma.sync
// m16n8k8, in which rows (m) are co, columns (n) are ci, and the sum (k) runs over positions. For h
// = 64 the four warps share the slice's sums; for h = 32 each has them all, and takes every fourth
// step of eight positions. With g = lane / 4 and t4 = lane % 4:
//
//   k     position 2 * t4 + {0, 1} of eight, for k = t4 and t4 + 4: taps + 1 neighbouring positions
//         of x serve all taps
//   m     co 4 * g + 2 * tile + {0, 1} of the warp's, for m = g and g + 8, tile = 0, 1
//   n     ci 2 * g + odd of the warp's, odd = 0, 1
//
// Order of a sum: eight positions after the other, whose sum the tensor core takes in an order of
// its own; then the groups one after the other. Of the bias: in a thread as it brings, then the
// threads.

#include <cuda_runtime.h>

#include "kernels/cuda/conv1d/device/index.cuh"
#include "kernels/cuda/conv1d/device/mma.cuh"
#include "kernels/cuda/conv1d/device/stage.cuh"
#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/device/dependency.cuh"
#include "kernels/cuda/device/shared.cuh"

namespace sidechannel::kernels::device {

constexpr int kWeightChunk = 64;
constexpr int kWeightSteps = kWeightChunk / 8;
constexpr int kWeightWorkers = 128;  // threads that multiply
template <class S>
constexpr int kWeightHelpers = S::kImages == 1 ? 2 * kHelpers : kHelpers;
template <class S>
constexpr int kWeightThreads = kWeightWorkers + kWeightHelpers<S>;

template <int kHidden, int kOfTaps>
struct WeightShape {
  static constexpr int kChannels = kHidden;
  static constexpr int kTaps = kOfTaps;
  static constexpr int kSlice = kHidden / 2;
  static constexpr int kSums = 16 * kTaps;  // of a thread
  static constexpr int kGroupThreads = kTaps * kSlice * kHidden / kSums;
  static constexpr int kGroups = kWeightWorkers / kGroupThreads;
  static constexpr int kPairs = kHidden / 32;  // of tiles of 16 co
  static constexpr int kImages = 1;            // of an operand
};

template <class S>
struct WeightStage {
  Planes<S::kSlice, kWeightChunk + S::kTaps - 1> x[S::kImages];
  LeftTile dy[S::kImages][kWeightSteps][2 * S::kPairs];
};

// What the shared memory is used for: two stages, in the end the sums of one group, and the bias's
// of an eighth of the helpers for each channel.
template <class S>
union WeightMemory {
  WeightStage<S> stages[2];
  struct {
    float group[S::kSums][S::kGroupThreads];
    alignas(16) float bias[kWeightHelpers<S> / 8][S::kChannels];
  } ending;
};

// What a layer's x is: a Source (as of rows.cuh, but that its constants are of sample n). This
// one is x as it stands.
struct PlainInput {
  struct Constants {
    __device__ Constants(const PlainInput&, int /*n*/, int /*channel*/) {}
    __device__ __forceinline__ float4 value(const float4& x) const { return x; }
  };
};

// The layers of a launch, all of one shape: grid.z counts them.
template <class Input>
struct WeightLayer {
  WeightSums sums;
  Input input;
};
template <class Input, int kMost>
struct WeightLayers {
  WeightLayer<Input> at[kMost];
};

// The helpers' part: a chunk on its way to shared memory. Of dy, eight lanes take the channels 4 *
// g of a pair of tiles, at one position; their sums go to the bias's.
template <class S, class Input>
struct BroughtChunk {
  static constexpr int kHelperThreads = kWeightHelpers<S>;
  static constexpr int kPasses = kWeightChunk / (kHelperThreads / 8);
  using X = std::remove_extent_t<decltype(WeightStage<S>::x)>;
  float4 dy[kPasses][S::kPairs];
  float4 x[X::template kPasses<kHelperThreads>];

  template <class Visit>
  static __device__ __forceinline__ void for_own_x(const WeightSums& p, const Chunk& chunk,
                                                   int helper, int first_ci, X& to, Visit visit) {
    to.template for_own_chunks<kHelperThreads, S::kChannels>(
        helper, p.x + std::int64_t{chunk.n} * p.length * S::kChannels, p.length, first_ci,
        chunk.first - p.padding, chunk.count + S::kTaps - 1, visit);
  }

  // All loads are begun before the first result is needed.
  __device__ __forceinline__ void load(const WeightSums& p, const Chunk& chunk, int helper,
                                       int first_ci, WeightStage<S>& stage) {
    const float* from = p.dy + (std::int64_t{chunk.n} * p.length_out + chunk.first) * S::kChannels;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int position = helper / 8 + pass * (kHelperThreads / 8);
#pragma unroll
      for (int pair = 0; pair < S::kPairs; ++pair) {
        dy[pass][pair] = position < chunk.count
                             ? load4(from + position * S::kChannels + 32 * pair + 4 * (helper % 8))
                             : make_float4(0, 0, 0, 0);
      }
    }
    for_own_x(p, chunk, helper, first_ci, stage.x[0],
              [&](int pass, float*, const float* global, bool inside) {
                if (inside) x[pass] = load4(global);
              });
  }

  __device__ __forceinline__ void put(const WeightLayer<Input>& layer, const Chunk& chunk,
                                      int helper, int first_ci, WeightStage<S>& stage,
                                      float4 (&bias)[S::kPairs]) const {
    const typename Input::Constants constants(layer.input, chunk.n,
                                              first_ci + 4 * X::own_quad(helper));
    for_own_x(layer.sums, chunk, helper, first_ci, stage.x[0],
              [&](int pass, float* shared, const float*, bool inside) {
                float4 big = make_float4(0, 0, 0, 0), small = big;
                if (inside) {
                  const float4 value = constants.value(x[pass]);
                  big = to_tf32(value);
                  if constexpr (S::kImages == 2) small = small_of_tf32(value, big);
                }
                *reinterpret_cast<float4*>(shared) = big;
                if constexpr (S::kImages == 2) {
                  *reinterpret_cast<float4*>(shared + sizeof(X) / sizeof(float)) = small;
                }
              });
    const int g = helper % 8;
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int position = helper / 8 + pass * (kHelperThreads / 8);
#pragma unroll
      for (int pair = 0; pair < S::kPairs; ++pair) {
        const float4 exact = dy[pass][pair];
        bias[pair] = add(bias[pair], exact);
        const float4 big = to_tf32(exact);
        put_rows(&stage.dy[0][position / 8][2 * pair], g, position / 2 % 4, position % 2, big);
        if constexpr (S::kImages == 2) {
          put_rows(&stage.dy[1][position / 8][2 * pair], g, position / 2 % 4, position % 2,
                   small_of_tf32(exact, big));
        }
      }
    }
  }
};

// The barrier between chunks, which both roles reach: by name, from different places.
template <class S>
__device__ __forceinline__ void chunk_barrier() {
  ptx::bar_sync<kWeightThreads<S>>();
}

template <class S, class Input, int kMost>
__global__ void __launch_bounds__(kWeightThreads<S>, 1)
    mma_weights_kernel(const __grid_constant__ WeightLayers<Input, kMost> layers) {
  after_earlier_launches();
  const WeightLayer<Input>& layer = layers.at[blockIdx.z];
  const WeightSums& p = layer.sums;
  constexpr int kChannels = S::kChannels, kTaps = S::kTaps, kImages = S::kImages;
  const int thread = static_cast<int>(threadIdx.x);
  const int helper = thread - kWeightWorkers;  // negative: multiplies
  const int group = helper < 0 ? thread / S::kGroupThreads : -1;
  const int rank = thread % S::kGroupThreads;
  const int pair = rank / 32 % S::kPairs;     // co 32 * pair + ...
  const int ci = rank / 32 / S::kPairs * 16;  // of the slice
  const int g = thread % 32 / 4;
  const int t4 = thread % 4;
  const int first_ci = static_cast<int>(blockIdx.x) * S::kSlice;
  auto& shared = *dynamic_shared<WeightMemory<S>>();

  float sum[2][kTaps][2][4] = {};  // [tile][tap][odd][of the product]
  const auto multiply = [&](const WeightStage<S>& stage, int count) {
    const int unit = LeftTile::unit_of(g, t4);
#pragma unroll 1
    for (int step = group; 8 * step < count; step += S::kGroups) {
      float4 dy[kImages][2];
      float2 x[kImages][kTaps + 1];
#pragma unroll
      for (int image = 0; image < kImages; ++image) {
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
          dy[image][tile] = load4(stage.dy[image][step][2 * pair + tile].unit[unit]);
        }
#pragma unroll
        for (int i = 0; i <= kTaps; ++i) {
          x[image][i] = load2(&stage.x[image].at[ci / 4 + g / 2][8 * step + 2 * t4 + i][g % 2 * 2]);
        }
      }
      if constexpr (kImages == 1) {
#pragma unroll
        for (int t = 0; t < kTaps; ++t) {
#pragma unroll
          for (int tile = 0; tile < 2; ++tile) {
            mma_tf32(sum[tile][t][0], dy[0][tile], x[0][t].x, x[0][t + 1].x);
            mma_tf32(sum[tile][t][1], dy[0][tile], x[0][t].y, x[0][t + 1].y);
          }
        }
      } else {
#pragma unroll
        for (int tile = 0; tile < 2; ++tile) {
          mma_split<2 * kTaps>(
              {dy[0][tile], dy[1][tile]},
              [&](int j) -> float(&)[4] { return sum[tile][j / 2][j % 2]; },
              [&](int j) {
                const float2 low = x[0][j / 2], high = x[0][j / 2 + 1];
                const float2 small_low = x[1][j / 2], small_high = x[1][j / 2 + 1];
                return j % 2 == 0 ? make_float4(low.x, high.x, small_low.x, small_high.x)
                                  : make_float4(low.y, high.y, small_low.y, small_high.y);
              });
        }
      }
    }
  };

  float4 bias[S::kPairs] = {};
  const Chunks chunks(p, static_cast<int>(blockIdx.y));
  // Each role has its own registers. What the helpers put, they load a chunk before.
  if (helper >= 0) {
    BroughtChunk<S, Input> brought;
    const auto load = [&](int index, int s) {
      if (index < chunks.end) {
        brought.load(p, Chunk(p, index), helper, first_ci, shared.stages[s]);
      }
    };
    load(chunks.begin, 0);
    brought.put(layer, Chunk(p, chunks.begin), helper, first_ci, shared.stages[0], bias);
    load(chunks.begin + 1, 1);
    chunk_barrier<S>();  // the first chunk is complete
#pragma unroll 1
    for (int index = chunks.begin + 1, s = 1; index <= chunks.end; ++index, s ^= 1) {
      if (index < chunks.end) {
        brought.put(layer, Chunk(p, index), helper, first_ci, shared.stages[s], bias);
        load(index + 1, s ^ 1);
      }
      chunk_barrier<S>();  // the chunk before has been read, this one is complete
    }
  } else {
    chunk_barrier<S>();
#pragma unroll 1
    for (int index = chunks.begin, s = 0; index < chunks.end; ++index, s ^= 1) {
      multiply(shared.stages[s], Chunk(p, index).count);
      chunk_barrier<S>();
    }
  }

  add_groups<S::kGroups, S::kSums>(&sum[0][0][0][0], group, rank, shared.ending.group);
  float* out = p.partial + blockIdx.y * p.row;
  if (group == 0) {
    // The lane has n = 2 * t4 + {0, 1}, that is ci 4 * t4 + {0, 2} + odd.
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        const auto& low = sum[0][t][c % 2];
        const auto& high = sum[1][t][c % 2];
        store4(out + (t * kChannels + first_ci + ci + 4 * t4 + c) * kChannels + 32 * pair + 4 * g,
               low[c / 2], low[2 + c / 2], high[c / 2], high[2 + c / 2]);
      }
    }
  }
  if (!p.bias || blockIdx.x != 0) return;  // the whole block
  if (helper >= 0) {
#pragma unroll
    for (int i = 0; i < S::kPairs; ++i) {
      store_as(&shared.ending.bias[helper / 8][32 * i + 4 * (helper % 8)], bias[i]);
    }
  }
  __syncthreads();  // all helpers' sums stand
  if (thread < kChannels) {
    float total = 0;
    for (int i = 0; i < kWeightHelpers<S> / 8; ++i) total += shared.ending.bias[i][thread];
    out[p.weight_sums + thread] = total;
  }
}

}  // namespace sidechannel::kernels::device
