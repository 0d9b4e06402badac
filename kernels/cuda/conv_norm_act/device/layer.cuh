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

#include "kernels/cuda/conv1d/device/rows_mma.cuh"
#include "kernels/cuda/conv_norm_act/kernels.h"
#include "kernels/cuda/device/activation.cuh"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/norm/statistics.cuh"

namespace sidechannel::kernels {

namespace device {

__device__ __forceinline__ float4 add4(const float4& a, const float4& b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
__device__ __forceinline__ float4 sub4(const float4& a, const float4& b) {
  return make_float4(a.x - b.x, a.y - b.y, a.z - b.z, a.w - b.w);
}
__device__ __forceinline__ float4 fma4(const float4& a, const float4& b, const float4& c) {
  return make_float4(fmaf(a.x, b.x, c.x), fmaf(a.y, b.y, c.y), fmaf(a.z, b.z, c.z),
                     fmaf(a.w, b.w, c.w));
}
template <Activation kActivation>
__device__ __forceinline__ float4 activate4(const float4& x) {
  return make_float4(activate(kActivation, x.x), activate(kActivation, x.y),
                     activate(kActivation, x.z), activate(kActivation, x.w));
}
// What the activation lets through of dy.
template <Activation kActivation>
__device__ __forceinline__ float4 activate_backward4(const float4& before, const float4& dy) {
  return make_float4(activate_backward(kActivation, before.x, dy.x),
                     activate_backward(kActivation, before.y, dy.y),
                     activate_backward(kActivation, before.z, dy.z),
                     activate_backward(kActivation, before.w, dy.w));
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
      return activate4<kActivation>(fma4(sub4(y[0], mean), scale, shift));
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
      const float4 d = sub4(from[1], mean);
      const float4 part =
          fma4(from[0], scale, make_float4(-offset.x, -offset.y, -offset.z, -offset.w));
      return fma4(make_float4(-d.x, -d.y, -d.z, -d.w), slope, part);
    }
  };
  __device__ __forceinline__ void keep(std::int64_t at, float4 value) const {
    *reinterpret_cast<float4*>(dy + at) = value;
  }
};

// --- Where they are written ----------------------------------------------------------------------

// Sums of a block's columns over its positions: each lane has those of its positions for its
// columns, kValues of them for each of S::kQuads four.
template <class S, int kValues>
struct BlockSums {
  alignas(16) float of_warp[kValues][S::kPositionWarps][S::kChannels];

  // A warp's part.
  __device__ __forceinline__ void put(const float4 (&sums)[kValues][S::kQuads]) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int column = 16 * (warp % S::kColumnWarps * S::kColumnTiles) + 4 * (lane / 4);
#pragma unroll
    for (int value = 0; value < kValues; ++value) {
#pragma unroll
      for (int q = 0; q < S::kQuads; ++q) {
        const float4& own = sums[value][q];
        const float4 total = make_float4(warp_sum<4>(own.x), warp_sum<4>(own.y), warp_sum<4>(own.z),
                                         warp_sum<4>(own.w));
        if (lane % 4 == 0) {
          *reinterpret_cast<float4*>(&of_warp[value][warp / S::kColumnWarps][column + 32 * q]) =
              total;
        }
      }
    }
  }
  // Behind a barrier.
  __device__ __forceinline__ float total(int value, int column) const {
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < S::kPositionWarps; ++warp) sum += of_warp[value][warp][column];
    return sum;
  }
  __device__ __forceinline__ float4 total4(int value, int column) const {
    return make_float4(total(value, column), total(value, column + 1), total(value, column + 2),
                       total(value, column + 3));
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
    const auto with_bias = [&](int column, const float4& sum) {
      return add4(sum, load4(p.bias + column));
    };
    if (!norm.normalized) {
      each([&](int, int position, int column, float4 sum) {
        *reinterpret_cast<float4*>(p.y + row + position * S::kChannels + column) =
            with_bias(column, sum);
      });
      return;
    }
    float4 sums[1][S::kQuads] = {};
    each([&](int q, int, int column, float4 sum) {
      sums[0][q] = add4(sums[0][q], with_bias(column, sum));
    });
    if (multiplies) memory.first.put(sums);
    ptx::bar_sync<S::kThreads>();  // all warps' sums stand
    const auto count = static_cast<float>(tile.count);
    const auto near = [&](int column) {
      const float4 total = memory.first.total4(0, column);
      return make_float4(total.x / count, total.y / count, total.z / count, total.w / count);
    };
    float4 centre[S::kQuads];
    if (multiplies) {
      const int warp = static_cast<int>(threadIdx.x) / 32,
                lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
      for (int q = 0; q < S::kQuads; ++q) {
        centre[q] = near(16 * (warp % S::kColumnWarps * S::kColumnTiles) + 4 * (lane / 4) + 32 * q);
      }
    }
    float4 centred[2][S::kQuads] = {};  // sums of d = y - near, and of d^2
    each([&](int q, int position, int column, float4 sum) {
      const float4 y = with_bias(column, sum);
      *reinterpret_cast<float4*>(p.y + row + position * S::kChannels + column) = y;
      const float4 d = sub4(y, centre[q]);
      centred[0][q] = add4(centred[0][q], d);
      centred[1][q] = fma4(d, d, centred[1][q]);
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
    // Positions 32 bytes beyond a multiple of 128 apart: what eight lanes read at once, of four
    // positions, lies in different groups of banks.
    alignas(16) float y[S::kPositions][S::kChannels + 8];
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
    float4 sums[2][S::kQuads] = {};
    each([&](int q, int position, int column, float4 dz) {
      const LayerConstants<S::kChannels>& k = memory.constants;
      const float4 d = sub4(load4(&memory.y[position][column]), load4(k.mean + column));
      const float4 before = fma4(d, load4(k.scale + column), load4(k.shift + column));
      const float4 g = activate_backward4<kActivation>(before, dz);
      *reinterpret_cast<float4*>(p.y + row + position * S::kChannels + column) = g;
      sums[0][q] = add4(sums[0][q], g);
      sums[1][q] = fma4(g, d, sums[1][q]);
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

}  // namespace device
}  // namespace sidechannel::kernels
