// conv1d for any shape and stride, in fp32 (the problems are defined in kernels.h).
//
// All kernels here stage tiles in shared memory with zeros in place of what lies outside, so that
// the inner loops need no bounds, and keep a small tile of sums in each thread's registers.

#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/conv1d/device/index.cuh"
#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

namespace sidechannel::kernels {
namespace {

using device::static_shared;

// --- Row products --------------------------------------------------------------------------------
//
// A block computes kRowPositions positions of one phase (row_product.h) of one sample x kRowColumns
// columns: grid.x counts tiles of positions of all phases of all samples, grid.y tiles of columns.
// A thread sums 4 positions, 16 apart, x 4 neighbouring columns. Order of a sum: channels in steps
// of 8; for each, taps in steps of 8; for each, tap by tap and channel by channel. The start is
// added last. With a stride, each tap has a tile of x of its own, which is as large for any stride.

constexpr int kRowPositions = 64;
constexpr int kRowColumns = 32;
constexpr int kRowChannels = 8;  // of x that are staged at a time
constexpr int kRowTaps = 8;      // of w, likewise
constexpr int kRowThreads = 128;

struct RowsShared {
  // One float more than a multiple of 8: neighbouring channels begin in different banks.
  float x[kRowChannels][kRowPositions + kRowTaps + 1];
  alignas(16) float w[kRowTaps][kRowChannels][kRowColumns];
};

__global__ void __launch_bounds__(kRowThreads) tiled_rows_kernel(NarrowProduct whole, int tiles) {
  device::after_earlier_launches();
  RowsShared& shared = static_shared<RowsShared>();
  const int thread = static_cast<int>(threadIdx.x);
  const int sequence = static_cast<int>(blockIdx.x) / tiles;
  const int n = sequence / whole.phases();
  const NarrowProduct p = whole.phase(sequence % whole.phases());
  const int first = static_cast<int>(blockIdx.x) % tiles * kRowPositions;
  const int first_column = static_cast<int>(blockIdx.y) * kRowColumns;
  const float* x = p.x + std::int64_t{n} * p.length * p.channels;

  const int quad = thread % 8;      // columns 4 * quad + {0, 1, 2, 3} of the tile
  const int position = thread / 8;  // positions position + {0, 16, 32, 48}
  float sum[4][4] = {};

  const int step = p.stride == 1 ? kRowTaps : 1;
  for (int c0 = 0; c0 < p.channels; c0 += kRowChannels) {
    for (int t0 = 0; t0 < p.taps; t0 += step) {
      const int taps = min(step, p.taps - t0);
      __syncthreads();  // the tiles before have been read
      for (int i = thread; i < kRowChannels * (kRowPositions + taps - 1); i += kRowThreads) {
        const int c = i % kRowChannels;
        const int q = i / kRowChannels;
        const std::int64_t l = std::int64_t{first + q} * p.stride + t0 - p.offset;
        const bool inside = c0 + c < p.channels && l >= 0 && l < p.length;
        shared.x[c][q] = inside ? x[l * p.channels + c0 + c] : 0.0f;
      }
      // Whichever index of w is the inner one in memory runs fastest here too.
      for (int i = thread; i < taps * kRowChannels * kRowColumns; i += kRowThreads) {
        const int t = i / (kRowChannels * kRowColumns);
        const int c = p.flip ? i % kRowChannels : i / kRowColumns % kRowChannels;
        const int j = p.flip ? i / kRowChannels % kRowColumns : i % kRowColumns;
        const bool inside = c0 + c < p.channels && first_column + j < p.columns;
        shared.w[t][c][j] =
            inside ? p.w[device::weight_index(p, t0 + t, c0 + c, first_column + j)] : 0.0f;
      }
      __syncthreads();  // the tiles are complete
      for (int t = 0; t < taps; ++t) {
#pragma unroll
        for (int c = 0; c < kRowChannels; ++c) {
          const float4 w = *reinterpret_cast<const float4*>(&shared.w[t][c][4 * quad]);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float value = shared.x[c][position + 16 * i + t];
            sum[i][0] += value * w.x;
            sum[i][1] += value * w.y;
            sum[i][2] += value * w.z;
            sum[i][3] += value * w.w;
          }
        }
      }
    }
  }

#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int l = first + position + 16 * i;
    if (l >= p.length_out) continue;
    const std::int64_t row =
        (std::int64_t{n} * whole.length_out + std::int64_t{l} * p.spread) * p.columns;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int column = first_column + 4 * quad + e;
      if (column < p.columns) device::store(p, row, column, sum[i][e]);
    }
  }
}

void tiled_rows(CudaQueue& queue, const NarrowProduct& p) {
  const int tiles = ceil_div(p.phase(0).length_out, kRowPositions);  // the others have no more
  Launch how;
  how.grid = Grid{std::int64_t{p.batch} * p.phases() * tiles, ceil_div(p.columns, kRowColumns)};
  how.block = dim3(kRowThreads);
  launch(queue, "conv1d rows, any shape", tiled_rows_kernel, how, p, tiles);
}

// --- Weight gradient, first stage ----------------------------------------------------------------
//
// A block sums kSide x kSide weights (ci, co) of one tap over one split: grid.x counts the tiles of
// co, ci and the taps, grid.y the splits. A thread sums 4 neighbouring ci x 4 neighbouring co.
// Order of a sum: position by position.

constexpr int kSide = 32;
constexpr int kWeightChunk = 64;
constexpr int kWeightThreads = kSide * kSide / 16;

struct WeightsShared {
  alignas(16) float x[kWeightChunk][kSide];
  alignas(16) float dy[kWeightChunk][kSide];
};

// Rows first, first + stride, ..., `count` of them, of a sample's data [length, channels], columns
// [c0, c0 + kSide).
__device__ __forceinline__ void stage(float (*to)[kSide], const float* data, int length,
                                      int channels, int first, int stride, int count, int c0) {
  for (int i = static_cast<int>(threadIdx.x); i < count * kSide; i += kWeightThreads) {
    const int c = c0 + i % kSide;
    const int l = first + i / kSide * stride;
    const bool inside = c < channels && l >= 0 && l < length;
    to[i / kSide][i % kSide] = inside ? data[std::int64_t{l} * channels + c] : 0.0f;
  }
}

__global__ void __launch_bounds__(kWeightThreads) tiled_weights_kernel(WeightSums p) {
  device::after_earlier_launches();
  WeightsShared& shared = static_shared<WeightsShared>();
  const int co_tiles = (p.channels_out + kSide - 1) / kSide;
  const int ci_tiles = (p.channels_in + kSide - 1) / kSide;
  const int tile = static_cast<int>(blockIdx.x);
  const int co0 = tile % co_tiles * kSide;
  const int ci0 = tile / co_tiles % ci_tiles * kSide;
  const int tap = tile / co_tiles / ci_tiles;

  const int co = static_cast<int>(threadIdx.x) % 8 * 4;
  const int ci = static_cast<int>(threadIdx.x) / 8 * 4;
  float sum[4][4] = {};

  const device::Chunks chunks(p, static_cast<int>(blockIdx.y));
  for (int index = chunks.begin; index < chunks.end; ++index) {
    const device::Chunk chunk(p, index);
    __syncthreads();  // the chunk before has been read
    stage(shared.x, p.x + std::int64_t{chunk.n} * p.length * p.channels_in, p.length, p.channels_in,
          chunk.first * p.stride + tap - p.padding, p.stride, chunk.count, ci0);
    stage(shared.dy, p.dy + std::int64_t{chunk.n} * p.length_out * p.channels_out, p.length_out,
          p.channels_out, chunk.first, 1, chunk.count, co0);
    __syncthreads();  // this chunk is complete
#pragma unroll 4
    for (int l = 0; l < chunk.count; ++l) {
      const float4 left = *reinterpret_cast<const float4*>(&shared.x[l][ci]);
      const float4 right = *reinterpret_cast<const float4*>(&shared.dy[l][co]);
      const float a[4] = {left.x, left.y, left.z, left.w};
      const float b[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] += a[i] * b[j];
      }
    }
  }

  float* out = p.partial + blockIdx.y * p.row;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (ci0 + ci + i < p.channels_in && co0 + co + j < p.channels_out) {
        out[(std::int64_t{tap} * p.channels_in + ci0 + ci + i) * p.channels_out + co0 + co + j] =
            sum[i][j];
      }
    }
  }
}

std::int64_t tiled_weights_blocks(const WeightSums& p) {
  return std::int64_t{p.taps} * ceil_div(p.channels_in, kSide) * ceil_div(p.channels_out, kSide);
}

void tiled_weights(CudaQueue& queue, const WeightSums& p) {
  Launch how;
  how.grid = Grid{tiled_weights_blocks(p), p.splits};
  how.block = dim3(kWeightThreads);
  launch(queue, "conv1d weight gradient, any shape", tiled_weights_kernel, how, p);
  if (p.bias) sum_columns(queue, p);
}

// --- Bias gradient, first stage ------------------------------------------------------------------
//
// A block sums 32 channels over one split: grid.x counts tiles of channels, grid.y splits. Order of
// a sum: each of 8 threads every eighth position, then their sums one after the other.

constexpr int kLanes = 32;
constexpr int kGroups = 8;

__global__ void __launch_bounds__(kLanes* kGroups) sum_columns_kernel(WeightSums p) {
  device::after_earlier_launches();
  struct Shared {
    float sum[kGroups][kLanes];
  };
  Shared& shared = static_shared<Shared>();
  const int lane = static_cast<int>(threadIdx.x);
  const int group = static_cast<int>(threadIdx.y);
  const int c = static_cast<int>(blockIdx.x) * kLanes + lane;

  float sum = 0;
  const device::Chunks chunks(p, static_cast<int>(blockIdx.y));
  for (int index = chunks.begin; index < chunks.end; ++index) {
    const device::Chunk chunk(p, index);
    const float* dy =
        p.dy + (std::int64_t{chunk.n} * p.length_out + chunk.first) * p.channels_out + c;
    for (int l = group; c < p.channels_out && l < chunk.count; l += kGroups) {
      sum += dy[std::int64_t{l} * p.channels_out];
    }
  }
  shared.sum[group][lane] = sum;
  __syncthreads();  // all groups' sums stand
  if (group != 0 || c >= p.channels_out) return;
  for (int g = 1; g < kGroups; ++g) sum += shared.sum[g][lane];
  p.partial[blockIdx.y * p.row + p.weight_sums + c] = sum;
}

// --- Second stage --------------------------------------------------------------------------------
//
// A block adds up the splits of 32 of a row's sums of a layer: grid.y counts layers. Order: each of
// its kSplitGroups groups of threads every kSplitGroups-th split, then the groups' sums one after
// the other.

template <int kMost>
struct SplitLayers {
  SplitSums at[kMost];
};

template <int kMost, int kSplitGroups>
__global__ void __launch_bounds__(kLanes* kSplitGroups)
    add_splits_kernel(const __grid_constant__ SplitLayers<kMost> layers) {
  device::after_earlier_launches();
  const auto& [p, dw, db] = layers.at[blockIdx.y];
  struct Shared {
    float sum[kSplitGroups][kLanes];
  };
  Shared& shared = static_shared<Shared>();
  const int lane = static_cast<int>(threadIdx.x);
  const int group = static_cast<int>(threadIdx.y);
  const std::int64_t index = std::int64_t{blockIdx.x} * kLanes + lane;
  const bool is_weight = index < p.weight_sums;
  const GradOut<float> out = is_weight ? dw : db;
  const bool wanted = index < p.row && out.data != nullptr;

  constexpr int kBatch = 8;  // loads that are under way at the same time
  float sum = 0;
  for (int first = group; wanted && first < p.splits; first += kBatch * kSplitGroups) {
    float some[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int s = first + i * kSplitGroups;
      some[i] = s < p.splits ? p.partial[s * p.row + index] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) sum += some[i];
  }
  shared.sum[group][lane] = sum;
  __syncthreads();  // all groups' sums stand
  if (group != 0 || !wanted) return;
  for (int g = 1; g < kSplitGroups; ++g) sum += shared.sum[g][lane];
  float* to = out.data + (is_weight ? index : index - p.weight_sums);
  *to = out.write == Write::kAccumulate ? *to + sum : sum;
}

}  // namespace

const RowVariant kTiledRows = {"any shape", {}, kRowPositions, 16, tiled_rows};

const WeightVariant kTiledWeights = {"any shape",          {},           kWeightChunk, 8, 16,
                                     tiled_weights_blocks, tiled_weights};

void sum_columns(CudaQueue& queue, const WeightSums& p) {
  Launch how;
  how.grid = Grid{ceil_div(p.channels_out, kLanes), p.splits};
  how.block = dim3(kLanes, kGroups);
  launch(queue, "conv1d bias gradient", sum_columns_kernel, how, p);
}

namespace {

template <int kMost>
void add_splits_of(CudaQueue& queue, View<SplitSums> layers) {
  SplitLayers<kMost> arguments = {};
  std::copy(layers.begin(), layers.end(), arguments.at);
  Launch how;
  how.grid = Grid{ceil_div(layers[0].sums.row, kLanes), static_cast<std::int64_t>(layers.size())};
  // Few sums: more threads for each.
  const bool few = how.grid.x * how.grid.y <= 64;
  how.block = dim3(kLanes, few ? 32 : 8);
  launch(queue, "conv1d parameter gradient, second stage",
         few ? add_splits_kernel<kMost, 32> : add_splits_kernel<kMost, 8>, how, arguments);
}

}  // namespace

void add_splits(CudaQueue& queue, View<SplitSums> layers) {
  constexpr std::size_t kMost = 24;  // of 160 bytes: a launch's arguments are 4 KB at most
  if (layers.size() == 1) return add_splits_of<1>(queue, layers);
  layers.for_parts(kMost, [&](View<SplitSums> some) { add_splits_of<kMost>(queue, some); });
}

}  // namespace sidechannel::kernels
