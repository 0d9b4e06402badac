#pragma once

// What the kernels of layers in a row (conv_norm_act) do with a layer between two convolutions: its
// normalization and activation where its rows are read, its statistics and sums where they are
// written.
//
// y of each sample is cut into chunks, the tiles of the blocks that compute it. These leave their
// sums in memory, [samples, chunks, channels], and whoever needs those of a set merges them again,
// in a fixed order: as many numbers as fit in a register or two, against a launch of its own.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/conv1d/device/rows.cuh"
#include "kernels/cuda/conv_norm_act/kernels.h"
#include "kernels/cuda/device/activation.cuh"
#include "kernels/cuda/device/vector.cuh"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/norm/statistics.cuh"

namespace sidechannel::kernels {

namespace device {

template <Activation kActivation, class V>
__device__ __forceinline__ V activate_each(const V& x) {
  return map([](float one) { return activate(kActivation, one); }, x);
}
// What the activation lets through of dy.
template <Activation kActivation, class V>
__device__ __forceinline__ V activate_backward_each(const V& before, const V& dy) {
  return map([](float x, float d) { return activate_backward(kActivation, x, d); }, before, dy);
}

// The constants of a layer's channels: what stands before the activation is
// (y - mean) * scale + shift.
template <int kChannels>
struct LayerConstants {
  alignas(16) float mean[kChannels], scale[kChannels], shift[kChannels];

  // From the thread's channel's mean = near + rest.
  __device__ void set(const Between& norm, int c, float near, float rest, float rstd) {
    mean[c] = near;
    scale[c] = rstd * norm.gamma[c];
    shift[c] = fmaf(-rest, scale[c], norm.beta[c]);
  }
  __device__ void set_none(int c) {
    mean[c] = shift[c] = 0;
    scale[c] = 1;
  }
  // From statistics that are there, of sample n.
  __device__ void read(const Between& norm, int n, int c) {
    if (!norm.normalized) return set_none(c);
    const int at = n / norm.set_samples * kChannels + c;
    set(norm, c, norm.statistics.mean[at], norm.statistics.mean_rest[at], norm.statistics.rstd[at]);
  }
};

// Calls add(part, positions) for the parts of a channel that belong to the set of sample n, in
// their order.
template <int kChannels, class Add>
__device__ __forceinline__ void for_parts(const Between& norm, int n, int c, Add add) {
  const int first = n / norm.set_samples * norm.set_samples * norm.chunks;
#pragma unroll 4
  for (int part = 0; part < norm.set_samples * norm.chunks; ++part) {
    const bool last = (part + 1) % norm.chunks == 0;
    add((first + part) * kChannels + c, last ? norm.last_chunk : norm.chunk);
  }
}

// The total over the set of channel c, of a number of each channel that thread c brings. The whole
// block's; the same for all channels of a set, whatever the thread.
template <int kThreads, int kChannels, class T>
__device__ __forceinline__ T total_of_set(const Between& norm, T value, T (&memory)[kChannels]) {
  if (norm.set_channels == 1) return value;
  const int c = static_cast<int>(threadIdx.x);
  ptx::bar_sync<kThreads>();  // the total before has been taken
  if (c < kChannels) memory[c] = value;
  ptx::bar_sync<kThreads>();  // all channels' numbers stand
  if (c >= kChannels) return value;
  T total = 0;
  const int first = c / norm.set_channels * norm.set_channels;
  for (int i = 0; i < norm.set_channels; ++i) total += memory[first + i];
  return total;
}

// Statistics of sample n's sets from the chunks' moments (as norm/forward.cu merges them), and the
// constants that follow. A block of kThreads, at least kChannels; callers need a barrier behind it.
// The first block of a set keeps the statistics.
template <int kThreads, int kChannels>
__device__ __forceinline__ void merge_statistics(const Between& norm, int n, bool keep,
                                                 double (&memory)[kChannels],
                                                 LayerConstants<kChannels>& constants) {
  const int c = static_cast<int>(threadIdx.x);
  const bool mine = c < kChannels;
  if (!norm.normalized) {
    if (mine) constants.set_none(c);
    return;
  }
  double sum = 0;
  if (mine) {
    for_parts<kChannels>(
        norm, n, c, [&](int part, int positions) { sum += positions * norm.moments[part].mean; });
  }
  const double mean = total_of_set<kThreads>(norm, sum, memory) / norm.set_size;
  double squares = 0;
  if (mine) {
    for_parts<kChannels>(norm, n, c, [&](int part, int positions) {
      const double deviation = norm.moments[part].mean - mean;
      squares += norm.moments[part].m2 + positions * deviation * deviation;
    });
  }
  const double variance = total_of_set<kThreads>(norm, squares, memory) / norm.set_size;
  if (!mine) return;
  const double rstd = rstd_of(variance, norm.epsilon);
  const float near = near_zero(mean, rstd, norm.epsilon) ? 0.0f : static_cast<float>(mean);
  const auto rest = static_cast<float>(mean - near);
  constants.set(norm, c, near, rest, static_cast<float>(rstd));
  if (!keep || n % norm.set_samples != 0) return;
  const int at = n / norm.set_samples * kChannels + c;
  norm.statistics.mean[at] = near;
  norm.statistics.mean_rest[at] = rest;
  norm.statistics.rstd[at] = static_cast<float>(rstd);
}

// --- Where rows are read -------------------------------------------------------------------------

// The rows are z, of the y that stands in memory; kept where that is asked for.
template <int kChannels, Activation kActivation>
struct ActivatedSource {
  Between norm;
  float* z;  // or null

  static constexpr int kArrays = 1;
  struct Memory {
    LayerConstants<kChannels> constants;
    double totals[kChannels];
  };

  template <class S>
  __device__ __forceinline__ void begin(const NarrowProduct&, const RowTile& tile,
                                        Memory& memory) const {
    merge_statistics<S::kThreads>(norm, tile.n, tile.first == 0, memory.totals, memory.constants);
    ptx::bar_sync<S::kThreads>();  // the constants stand
  }
  __device__ __forceinline__ void load(const NarrowProduct& p, std::int64_t at,
                                       float4 (&to)[1]) const {
    to[0] = load4(p.x + at);
  }
  struct Constants {
    float4 mean, scale, shift;
    __device__ __forceinline__ Constants(const Memory& memory, int channel)
        : mean(load4(memory.constants.mean + channel)),
          scale(load4(memory.constants.scale + channel)),
          shift(load4(memory.constants.shift + channel)) {}
    __device__ __forceinline__ float4 value(const float4 (&y)[1]) const {
      return activate_each<kActivation>(multiply_add(subtract(y[0], mean), scale, shift));
    }
  };
  __device__ __forceinline__ void keep(std::int64_t at, float4 value) const {
    if (z) *reinterpret_cast<float4*>(z + at) = value;
  }
};

// The rows are dy, from g (in p.x) and y:
//
//   dy = rstd * (gamma * g - a - x_hat * b) = scale * g - offset - slope * (y - mean)
//
// with a and b the means over the set of gamma * g and of gamma * g * x_hat. They are kept, for the
// gradients of the weights.
template <int kChannels>
struct GradientSource {
  Between norm;
  float* dy;

  static constexpr int kArrays = 2;
  struct Memory {
    alignas(16) float mean[kChannels], scale[kChannels], offset[kChannels], slope[kChannels];
    float totals[kChannels];
  };

  template <class S>
  __device__ __forceinline__ void begin(const NarrowProduct&, const RowTile& tile,
                                        Memory& memory) const {
    const int c = static_cast<int>(threadIdx.x);
    const bool mine = c < kChannels;
    if (norm.normalized) {
      float2 sum = make_float2(0, 0);
      float gamma = 0;
      if (mine) {
        for_parts<kChannels>(norm, tile.n, c, [&](int part, int) {
          sum.x += norm.sums[part].x;
          sum.y += norm.sums[part].y;
        });
        gamma = norm.gamma[c];
      }
      const auto size = static_cast<float>(norm.set_size);
      const float a = total_of_set<S::kThreads>(norm, gamma * sum.x, memory.totals) / size;
      const float b = total_of_set<S::kThreads>(norm, gamma * sum.y, memory.totals) / size;
      if (mine) {
        const int at = tile.n / norm.set_samples * kChannels + c;
        const float rstd = norm.statistics.rstd[at];
        memory.mean[c] = norm.statistics.mean[at];
        memory.scale[c] = rstd * gamma;
        memory.slope[c] = rstd * rstd * b;
        memory.offset[c] = fmaf(-norm.statistics.mean_rest[at], memory.slope[c], rstd * a);
      }
    } else if (mine) {
      memory.mean[c] = memory.slope[c] = memory.offset[c] = 0;
      memory.scale[c] = 1;
    }
    ptx::bar_sync<S::kThreads>();  // the constants stand
  }
  __device__ __forceinline__ void load(const NarrowProduct& p, std::int64_t at,
                                       float4 (&to)[2]) const {
    to[0] = load4(p.x + at);
    to[1] = load4(norm.y + at);
  }
  struct Constants {
    float4 mean, scale, offset, slope;
    __device__ __forceinline__ Constants(const Memory& memory, int channel)
        : mean(load4(memory.mean + channel)),
          scale(load4(memory.scale + channel)),
          offset(load4(memory.offset + channel)),
          slope(load4(memory.slope + channel)) {}
    __device__ __forceinline__ float4 value(const float4 (&from)[2]) const {
      const float4 part = multiply_add(from[0], scale, negate(offset));
      return multiply_add(negate(subtract(from[1], mean)), slope, part);
    }
  };
  __device__ __forceinline__ void keep(std::int64_t at, float4 value) const {
    *reinterpret_cast<float4*>(dy + at) = value;
  }
};

// --- Where they are written ----------------------------------------------------------------------

// Sums of a block's columns over its positions: each thread that multiplies has those of its
// positions for its columns, kValues of them for each of S::kSlots pieces.
template <class S, int kValues>
struct BlockSums {
  using Columns = typename S::Columns;
  alignas(16) float of_part[kValues][S::kParts][S::kChannels];

  // A warp's part. Four neighbouring lanes have the same columns.
  __device__ __forceinline__ void put(const Columns (&sums)[kValues][S::kSlots]) {
#pragma unroll
    for (int value = 0; value < kValues; ++value) {
#pragma unroll
      for (int slot = 0; slot < S::kSlots; ++slot) {
        const Columns total = map([](float one) { return warp_sum<4>(one); }, sums[value][slot]);
        if (threadIdx.x % 4 == 0) store_as(&of_part[value][S::part()][S::column(slot)], total);
      }
    }
  }
  // Behind a barrier.
  __device__ __forceinline__ float total(int value, int column) const {
    float sum = 0;
#pragma unroll
    for (int part = 0; part < S::kParts; ++part) sum += of_part[value][part][column];
    return sum;
  }
  __device__ __forceinline__ Columns total_of_columns(int value, int column) const {
    Columns sum = load_as<Columns>(&of_part[value][0][column]);
#pragma unroll
    for (int part = 1; part < S::kParts; ++part) {
      sum = add(sum, load_as<Columns>(&of_part[value][part][column]));
    }
    return sum;
  }
};

// y goes to memory, and its moments (as norm/forward.cu takes them of a tile).
template <class S>
struct MomentsSink {
  Between norm;

  struct Memory {
    BlockSums<S, 1> first;
    BlockSums<S, 2> second;
  };
  template <class>
  __device__ void begin(const NarrowProduct&, const RowTile&, int, Memory&) const {}

  template <class, class Each>
  __device__ __forceinline__ void finish(const NarrowProduct& p, const RowTile& tile,
                                         Memory& memory, Each each) const {
    const bool multiplies = static_cast<int>(threadIdx.x) < S::kWorkers;
    const std::int64_t row = (std::int64_t{tile.n} * p.length_out + tile.first) * S::kChannels;
    using Columns = typename S::Columns;
    const auto with_bias = [&](int column, const Columns& sum) {
      return add(sum, load_as<Columns>(p.bias + column));
    };
    if (!norm.normalized) {
      each([&](int, int position, int column, const Columns& sum) {
        store_as(p.y + row + position * S::kChannels + column, with_bias(column, sum));
      });
      return;
    }
    Columns sums[1][S::kSlots] = {};
    each([&](int slot, int, int column, const Columns& sum) {
      sums[0][slot] = add(sums[0][slot], with_bias(column, sum));
    });
    if (multiplies) memory.first.put(sums);
    ptx::bar_sync<S::kThreads>();  // all warps' sums stand
    const auto count = static_cast<float>(tile.count);
    Columns centre[S::kSlots];
    if (multiplies) {
#pragma unroll
      for (int slot = 0; slot < S::kSlots; ++slot) {
        centre[slot] = map([&](float total) { return total / count; },
                           memory.first.total_of_columns(0, S::column(slot)));
      }
    }
    Columns centred[2][S::kSlots] = {};  // sums of d = y - near, and of d^2
    each([&](int slot, int position, int column, const Columns& sum) {
      const Columns y = with_bias(column, sum);
      store_as(p.y + row + position * S::kChannels + column, y);
      const Columns d = subtract(y, centre[slot]);
      centred[0][slot] = add(centred[0][slot], d);
      centred[1][slot] = multiply_add(d, d, centred[1][slot]);
    });
    if (multiplies) memory.second.put(centred);
    ptx::bar_sync<S::kThreads>();  // all warps' sums stand
    const int c = static_cast<int>(threadIdx.x);
    if (c >= S::kChannels) return;
    const double d = memory.second.total(0, c), d2 = memory.second.total(1, c), n = tile.count;
    const double rounded = memory.first.total(0, c) / count;
    norm.moments[(tile.n * norm.chunks + tile.first / norm.chunk) * S::kChannels + c] = {
        rounded + d / n, d2 - d * d / n};
  }
};

// The sums are dz of the layer below, of whose output the product is the input gradient: g, what
// its activation lets through of them, goes to memory, and the sums of g and of g * x_hat.
template <class S, Activation kActivation>
struct GradientSink {
  Between norm;  // of the layer below

  struct Memory {
    // So far apart that what a warp reads at once, of four positions, lies in different banks.
    alignas(16) float y[S::kPositions][S::kChannels + S::kSkew];
    LayerConstants<S::kChannels> constants;
    BlockSums<S, 2> sums;
  };

  template <class>
  __device__ __forceinline__ void begin(const NarrowProduct& p, const RowTile& tile, int helper,
                                        Memory& memory) const {
    constexpr int kQuads = S::kChannels / 4;
    const float* from = norm.y + (std::int64_t{tile.n} * p.length_out + tile.first) * S::kChannels;
    for (int i = helper; i < tile.count * kQuads; i += S::kRowHelpers) {
      ptx::cp_async(&memory.y[i / kQuads][i % kQuads * 4], from + 4 * i, true);
    }
    ptx::cp_async_commit_group();
    if (helper < S::kChannels) memory.constants.read(norm, tile.n, helper);
  }

  template <class, class Each>
  __device__ __forceinline__ void finish(const NarrowProduct& p, const RowTile& tile,
                                         Memory& memory, Each each) const {
    const int thread = static_cast<int>(threadIdx.x);
    if (thread >= S::kWorkers) ptx::cp_async_wait_group<0>();
    ptx::bar_sync<S::kThreads>();  // y is there
    const std::int64_t row = (std::int64_t{tile.n} * p.length_out + tile.first) * S::kChannels;
    using Columns = typename S::Columns;
    Columns sums[2][S::kSlots] = {};
    each([&](int slot, int position, int column, const Columns& dz) {
      const LayerConstants<S::kChannels>& k = memory.constants;
      const Columns d = subtract(load_as<Columns>(&memory.y[position][column]),
                                 load_as<Columns>(k.mean + column));
      const Columns before =
          multiply_add(d, load_as<Columns>(k.scale + column), load_as<Columns>(k.shift + column));
      const Columns g = activate_backward_each<kActivation>(before, dz);
      store_as(p.y + row + position * S::kChannels + column, g);
      sums[0][slot] = add(sums[0][slot], g);
      sums[1][slot] = multiply_add(g, d, sums[1][slot]);
    });
    if (!norm.normalized) return;
    if (thread < S::kWorkers) memory.sums.put(sums);
    ptx::bar_sync<S::kThreads>();  // all warps' sums stand
    if (thread >= S::kChannels) return;
    const int at = tile.n / norm.set_samples * S::kChannels + thread;
    const float total = memory.sums.total(0, thread);
    // x - mean becomes x_hat.
    const float x_hat = fmaf(-norm.statistics.mean_rest[at], total, memory.sums.total(1, thread)) *
                        norm.statistics.rstd[at];
    norm.sums[(tile.n * norm.chunks + tile.first / norm.chunk) * S::kChannels + thread] =
        make_float2(total, x_hat);
  }
};

// Those of the kernels of shape S.
template <class S>
using Activated = ActivatedSource<S::kChannels, kLayerActivation>;
template <class S>
using Gradient = GradientSource<S::kChannels>;
template <class S>
using MomentsOut = MomentsSink<S>;
template <class S>
using GradientOut = GradientSink<S, kLayerActivation>;

}  // namespace device
}  // namespace sidechannel::kernels
