// Parameter gradients of conv1d on tensor cores, as in conv1d_weights_mma.cu, with chunks copied to
// shared memory in the background, several ahead, and of several layers of one shape in one launch:
// candidates for sm_90, which conv1d does not choose by itself.
//
// A block sums a slice of h / kSlices input channels x all h output channels x all taps over one
// split of one layer: grid.x counts slices, grid.y splits, grid.z layers. All threads copy
// (cp.async) and multiply. Operands lie in shared memory as in global memory and are rounded to
// TF32 where a fragment is read: to even, which is one instruction.
//
// What a warp sums, and which row, column and k of mma.sync stands for which, is told in
// conv1d_weights_mma.cu. Order of a sum: as there. Of the bias: in a lane position after position,
// then the four lanes of a channel in a tree, then the groups one after the other.

#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>

#include "kernels/cuda/conv1d_kernels.h"
#include "kernels/cuda/conv1d_variants.h"
#include "kernels/cuda/device/conv1d_index.cuh"
#include "kernels/cuda/device/conv1d_stage.cuh"
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/launch.h"

namespace sidechannel::kernels {
namespace {

using device::kTaps;
using device::load2;
using device::load4;

constexpr int kChunk = 64;
constexpr int kMostLayers = 32;

// kBlocks of such a shape run on one multiprocessor, with kStages chunks each.
template <int kHidden, int kSlices_, int kStages_, int kBlocks_>
struct Shape {
  static constexpr int kChannels = kHidden;
  static constexpr int kSlices = kSlices_;
  static constexpr int kStages = kStages_;
  static constexpr int kBlocks = kBlocks_;
  static constexpr int kSlice = kHidden / kSlices;
  static constexpr int kPairs = kHidden / 32;  // of tiles of 16 co
  static constexpr int kGroupThreads = 32 * kPairs * (kSlice / 16);
  static constexpr int kThreads = kGroupThreads < 128 ? 128 : kGroupThreads;
  static constexpr int kGroups = kThreads / kGroupThreads;
};

template <class S>
struct Stage {
  device::Planes<S::kSlice, kChunk + kTaps - 1> x;
  // Chunks of four channels, placed such that eight lanes, of two neighbouring g and all t4, read
  // from eight different groups of banks.
  alignas(16) float dy[kChunk * S::kChannels / 4][4];

  __device__ static constexpr int place(int position, int quad) {
    return position * (S::kChannels / 4) + (quad ^ position / 2 % 4 * 2);
  }
};

// Of a thread.
struct Sums {
  float weights[2][kTaps][2][4];  // [tile][tap][odd][of the product]
  float bias[4];
};
constexpr int kSums = sizeof(Sums) / sizeof(float);

template <class S>
union Shared {
  Stage<S> stages[S::kStages];
  float group[kSums][S::kGroupThreads];  // in the end
};

// The layers of a launch.
template <int kMost>
struct Layers {
  LayerGradients of[kMost];
};

template <class S>
__device__ __forceinline__ void copy(const WeightSums& p, const LayerGradients& layer,
                                     const device::Chunk& chunk, int first_ci, Stage<S>& stage) {
  constexpr int kQuads = S::kChannels / 4;
  const int thread = static_cast<int>(threadIdx.x);
  const float* dy = layer.dy + (std::int64_t{chunk.n} * p.length_out + chunk.first) * S::kChannels;
#pragma unroll
  for (int pass = 0; pass < kChunk * kQuads / S::kThreads; ++pass) {
    const int index = thread + pass * S::kThreads;
    const int position = index / kQuads;
    const bool inside = position < chunk.count;
    device::copy_async(stage.dy[Stage<S>::place(position, index % kQuads)],
                       dy + (inside ? index * 4 : 0), inside);
  }
  stage.x.template for_own_chunks<S::kThreads, S::kChannels>(
      thread, layer.x + std::int64_t{chunk.n} * p.length * S::kChannels, p.length, first_ci,
      chunk.first - p.padding, chunk.count + kTaps - 1, device::BeginCopy());
}

__device__ __forceinline__ float4 rounded(float4 x) {
  return make_float4(device::to_even_tf32(x.x), device::to_even_tf32(x.y),
                     device::to_even_tf32(x.z), device::to_even_tf32(x.w));
}

template <class S, int kMost>
__global__ void __launch_bounds__(S::kThreads, S::kBlocks)
    async_weights_kernel(WeightSums p, Layers<kMost> layers) {
  device::after_earlier_launches();
  const LayerGradients& layer = layers.of[blockIdx.z];
  const int thread = static_cast<int>(threadIdx.x);
  const int group = thread / S::kGroupThreads;
  const int rank = thread % S::kGroupThreads;
  const int pair = rank / 32 % S::kPairs;     // co 32 * pair + ...
  const int ci = rank / 32 / S::kPairs * 16;  // of the slice
  const int g = thread % 32 / 4;
  const int t4 = thread % 4;
  const int first_ci = static_cast<int>(blockIdx.x) * S::kSlice;
  const bool sums_bias = first_ci + ci == 0;
  auto& shared = *device::dynamic_shared<Shared<S>>();

  const device::Chunks chunks(p, static_cast<int>(blockIdx.y));
  const auto bring = [&](int index, int slot) {
    if (index < chunks.end) {
      copy<S>(p, layer, device::Chunk(p, index), first_ci, shared.stages[slot]);
    }
    device::copy_async_commit();
  };
#pragma unroll
  for (int s = 0; s < S::kStages - 1; ++s) bring(chunks.begin + s, s);

  Sums sum = {};
#pragma unroll 1
  for (int index = chunks.begin, slot = 0; index < chunks.end; ++index) {
    device::copy_async_wait<S::kStages - 2>();
    __syncthreads();  // this chunk is there, the one before has been read
    bring(index + S::kStages - 1, slot == 0 ? S::kStages - 1 : slot - 1);
    const Stage<S>& stage = shared.stages[slot];
    slot = slot + 1 == S::kStages ? 0 : slot + 1;
    const int count = device::Chunk(p, index).count;
#pragma unroll 2
    for (int step = group; 8 * step < count; step += S::kGroups) {
      const float* dy = stage.dy[Stage<S>::place(2 * t4, 8 * pair + g)] + step * 8 * S::kChannels;
      const float4 low = load4(dy);
      const float4 high = load4(dy + S::kChannels);
      float2 x[kTaps + 1];
#pragma unroll
      for (int i = 0; i <= kTaps; ++i) {
        x[i] = load2(&stage.x.at[ci / 4 + g / 2][8 * step + 2 * t4 + i][g % 2 * 2]);
      }
      if (sums_bias) {
        sum.bias[0] += low.x + high.x;
        sum.bias[1] += low.y + high.y;
        sum.bias[2] += low.z + high.z;
        sum.bias[3] += low.w + high.w;
      }
      const float4 a = rounded(low);
      const float4 b = rounded(high);
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          // Two positions, rounded once for each tap: a product takes neighbouring registers.
          const float first = device::to_even_tf32_again(odd ? x[t].y : x[t].x);
          const float second = device::to_even_tf32_again(odd ? x[t + 1].y : x[t + 1].x);
          device::mma_tf32(sum.weights[0][t][odd], a.x, a.y, b.x, b.y, first, second);
          device::mma_tf32(sum.weights[1][t][odd], a.z, a.w, b.z, b.w, first, second);
        }
      }
    }
  }

  if constexpr (S::kGroups > 1) {
    device::copy_async_wait<0>();
    __syncthreads();  // the last chunk has been read
    device::add_groups<S::kGroups, kSums>(&sum.weights[0][0][0][0], group, rank, shared.group);
  }
  if (group != 0) return;
  const auto split = static_cast<std::int64_t>(blockIdx.z) * p.splits + blockIdx.y;
  float* out = p.partial + split * p.row;
  // The lane has n = 2 * t4 + {0, 1}, that is ci 4 * t4 + {0, 2} + odd.
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const auto& low = sum.weights[0][t][c % 2];
      const auto& high = sum.weights[1][t][c % 2];
      device::store4(
          out + (t * S::kChannels + first_ci + ci + 4 * t4 + c) * S::kChannels + 32 * pair + 4 * g,
          low[c / 2], low[2 + c / 2], high[c / 2], high[2 + c / 2]);
    }
  }
  if (!p.bias || !sums_bias) return;  // the whole warp
#pragma unroll
  for (float& total : sum.bias) total = device::warp_sum<4>(total);
  if (t4 == 0) {
    device::store4(out + p.weight_sums + 32 * pair + 4 * g, sum.bias[0], sum.bias[1], sum.bias[2],
                   sum.bias[3]);
  }
}

template <class S, int kMost>
void launch_sums(CudaQueue& queue, const WeightSums& p, const Layers<kMost>& layers, int count) {
  Launch how;
  how.grid = dim3(S::kSlices, p.splits, count);
  how.block = dim3(S::kThreads);
  how.dynamic_shared = sizeof(Shared<S>);
  launch(queue, "conv1d weight gradient, TF32, copies in the background",
         async_weights_kernel<S, kMost>, how, p, layers);
}

template <class S>
void async_weights(CudaQueue& queue, const WeightSums& p) {
  launch_sums<S, 1>(queue, p, {{{p.x, p.dy, {}, {}}}}, 1);
}

template <class S>
WeightVariant variant(const char* name) {
  return {name,
          S::kChannels,
          kChunk,
          sizeof(Shared<S>),
          S::kBlocks,
          [](const WeightSums&) { return S::kSlices; },
          async_weights<S>};
}

// --- Several layers ------------------------------------------------------------------------------

using Together = void (*)(CudaQueue&, const WeightSums&, const Layers<kMostLayers>&, int);

// Adds up the splits of all layers, one after the other: grid.x counts sums, grid.y layers.
__global__ void __launch_bounds__(256) add_layers_kernel(WeightSums p, Layers<kMostLayers> layers) {
  device::after_earlier_launches();
  const std::int64_t index = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (index >= p.row) return;
  const LayerGradients& layer = layers.of[blockIdx.y];
  const bool is_weight = index < p.weight_sums;
  const GradOut<float> out = is_weight ? layer.dw : layer.db;
  if (out.data == nullptr) return;
  const float* partial = p.partial + blockIdx.y * p.splits * p.row + index;
  float sum = 0;
#pragma unroll 8
  for (int s = 0; s < p.splits; ++s) sum += partial[s * p.row];
  float* to = out.data + (is_weight ? index : index - p.weight_sums);
  *to = out.write == Write::kAccumulate ? *to + sum : sum;
}

struct TogetherVariant {
  const char* name;
  int channels;
  Together run;
};

const std::vector<TogetherVariant>& together() {
  static const std::vector<TogetherVariant> variants = {
      {"TF32 together, h = 64, 2 slices, 2 blocks", 64,
       launch_sums<Shape<64, 2, 4, 2>, kMostLayers>},
      {"TF32 together, h = 64, 2 slices, 3 blocks", 64,
       launch_sums<Shape<64, 2, 3, 3>, kMostLayers>},
      {"TF32 together, h = 64, 1 slice, 1 block", 64, launch_sums<Shape<64, 1, 5, 1>, kMostLayers>},
      {"TF32 together, h = 64, 1 slice, 2 blocks", 64,
       launch_sums<Shape<64, 1, 3, 2>, kMostLayers>},
      {"TF32 together, h = 32, 1 slice, 2 blocks", 32,
       launch_sums<Shape<32, 1, 3, 2>, kMostLayers>},
  };
  return variants;
}

}  // namespace

const std::vector<WeightVariant>& tf32_async_weights() {
  static const std::vector<WeightVariant> variants = {
      variant<Shape<64, 2, 4, 2>>("TF32 async, h = 64, 2 slices, 2 blocks"),
      variant<Shape<64, 2, 3, 3>>("TF32 async, h = 64, 2 slices, 3 blocks"),
      variant<Shape<64, 1, 5, 1>>("TF32 async, h = 64, 1 slice, 1 block"),
      variant<Shape<64, 1, 3, 2>>("TF32 async, h = 64, 1 slice, 2 blocks"),
      variant<Shape<32, 1, 3, 2>>("TF32 async, h = 32, 1 slice, 2 blocks"),
  };
  return variants;
}

std::vector<std::string> conv1d_together_variants(std::int64_t channels) {
  std::vector<std::string> names;
  for (const TogetherVariant& variant : together()) {
    if (variant.channels == channels) names.emplace_back(variant.name);
  }
  return names;
}

void conv1d_backward_params_together(CudaQueue& queue, const std::string& name, int splits,
                                     const Conv1dDims& dims,
                                     const std::vector<LayerGradients>& layers) {
  const auto variant = std::find_if(together().begin(), together().end(),
                                    [&](const TogetherVariant& v) { return name == v.name; });
  if (variant == together().end() || layers.size() > kMostLayers || layers.empty() ||
      dims.channels_in != variant->channels || dims.channels_out != variant->channels ||
      dims.kernel_size != kTaps) {
    throw std::logic_error("conv1d: \"" + name + "\" cannot compute this");
  }
  WeightSums p = {};
  p.batch = static_cast<int>(dims.batch);
  p.length = static_cast<int>(dims.length);
  p.length_out = static_cast<int>(dims.length_out());
  p.channels_in = p.channels_out = variant->channels;
  p.taps = kTaps;
  p.padding = static_cast<int>(dims.padding);
  p.weights = p.bias = true;
  p.chunk = kChunk;
  p.chunks_per_sample = ceil_div(p.length_out, kChunk);
  p.chunks = std::int64_t{p.batch} * p.chunks_per_sample;
  p.splits = static_cast<int>(std::min<std::int64_t>(splits, p.chunks));
  p.weight_sums = std::int64_t{kTaps} * p.channels_in * p.channels_out;
  p.row = p.weight_sums + p.channels_out;
  const auto count = static_cast<int>(layers.size());
  p.partial = static_cast<float*>(
      queue.scratch(static_cast<std::size_t>(count * p.splits * p.row) * sizeof(float)));
  Layers<kMostLayers> table = {};
  std::copy(layers.begin(), layers.end(), table.of);
  variant->run(queue, p, table, count);
  Launch how;
  how.grid = dim3(ceil_div(p.row, 256), count);
  how.block = dim3(256);
  launch(queue, "conv1d parameter gradients, second stage", add_layers_kernel, how, p, table);
}

}  // namespace sidechannel::kernels
