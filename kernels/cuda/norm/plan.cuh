#pragma once

// What the files of fused normalization and activation have in common.
//
// A group is a matrix [positions = NormDims::rows(), channels], and a set of
// statistics is a few neighbouring columns of it. Two ways, by size:
//
//   whole sets  A block takes all positions of a few columns (whole sets, 32 bytes wide where it
//               can be) into registers, has the set's sums in its shared memory, and writes the
//               result: each element crosses the bus once in each direction, in one launch.
//   chunks      Sets that no block can hold (BatchNorm, LayerNorm over long samples): blocks sum
//               tiles of a fixed number of positions, a second launch merges the tiles of each set
//               in order, a third one applies the result. x is read twice.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device/activation.cuh"
#include "kernels/cuda/device/tile.cuh"
#include "kernels/cuda/norm/statistics.cuh"
#include "kernels/cuda/sizes.h"
#include "kernels/cuda/tiling.h"
#include "kernels/norm_act.h"

namespace sidechannel::kernels {

// Statistics that a kernel reads.
using GivenStatistics = NormStatistics<const float>;

// What the device needs of NormDims, and of a way back.
struct NormArguments {
  int set_channels;
  float set_size;
  float epsilon;
  Activation activation;
  bool centred;
  bool through_mean, through_variance;
};

inline NormArguments arguments_of(const NormDims& dims) {
  return {narrow(dims.channels_per_set),
          static_cast<float>(dims.set_size()),
          static_cast<float>(dims.epsilon),
          dims.activation,
          dims.centred,
          dims.centred,
          true};
}

// Puts the tiles of whole sets into `plan`, with the fewest of `items` positions a thread that do.
// False where a set is too large for a block.
inline bool cut_in_whole_sets(const NormDims& dims, int vec, std::initializer_list<int> items,
                              TilePlan& plan) {
  const std::int64_t positions = dims.rows();
  const auto holds_sets = [&](int channels) {
    return channels % dims.channels_per_set == 0 || channels >= dims.channels;
  };
  int needed = 1;
  while (needed <= 32 && !holds_sets(needed * vec)) needed *= 2;
  int sector = 1;  // columns of 32 bytes, the least that memory moves
  while (sector * vec < 8 && sector * vec < dims.channels) sector *= 2;
  for (const int columns : {std::max(needed, sector), needed}) {
    for (const int per_thread : items) {
      const int rows_of_a_warp = 32 / columns;
      std::int64_t rows = ceil_div(positions, per_thread);
      if (columns > 32 || rows * columns > kMaxTileThreads) continue;
      rows = (rows + rows_of_a_warp - 1) / rows_of_a_warp * rows_of_a_warp;
      plan.tiling = {positions, narrow(dims.channels), narrow(positions), 1};
      plan.vec = vec;
      plan.columns = columns;
      plan.rows = static_cast<int>(rows);
      plan.items = per_thread;
      plan.groups = dims.groups();
      return true;
    }
  }
  return false;
}

namespace device {

// The constants of a thread's channels: what stands before the activation is
// (x - mean) * scale + shift. Forward and backward take it from here, so that they agree about a
// ReLU's mask: hence the fused multiply-adds by name.
template <int kVec>
struct NormConstants {
  // scale = rstd * gamma, shift = beta - rest * scale
  Pack<kVec> mean, rest, rstd, scale, shift;

  // The mean is near + correction, where near is within a few roundings of it. Needs rstd.
  __device__ __forceinline__ void set_mean(const Pack<kVec>& near, const Pack<kVec>& correction,
                                           float epsilon) {
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      mean.v[j] = near_zero(near.v[j], rstd.v[j], epsilon) ? 0.0f : near.v[j] + correction.v[j];
      rest.v[j] = (near.v[j] - mean.v[j]) + correction.v[j];
    }
  }
  __device__ __forceinline__ void keep(const NormStatistics<float>& statistics,
                                       std::int64_t first) const {
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      statistics.mean[first + j] = mean.v[j];
      statistics.mean_rest[first + j] = rest.v[j];
      statistics.rstd[first + j] = rstd.v[j];
    }
  }
  __device__ __forceinline__ void set_statistics(const GivenStatistics& statistics,
                                                 std::int64_t first) {
    mean = Pack<kVec>::gather(statistics.mean + first);
    rest = Pack<kVec>::gather(statistics.mean_rest + first);
    rstd = Pack<kVec>::gather(statistics.rstd + first);
  }
  // `statistics` holds a variance in the place of rstd, and no rest.
  __device__ __forceinline__ void set_population(const GivenStatistics& statistics,
                                                 std::int64_t first, float epsilon) {
    mean = Pack<kVec>::gather(statistics.mean + first);
    rest = {};
    rstd = Pack<kVec>::gather(statistics.rstd + first);
#pragma unroll
    for (int j = 0; j < kVec; ++j) rstd.v[j] = 1.0f / sqrtf(rstd.v[j] + epsilon);
  }
  // The arrays begin with the thread's first channel.
  __device__ __forceinline__ void set_scale(const float* gamma, const float* beta) {
    scale = Pack<kVec>::gather(gamma);
    shift = Pack<kVec>::gather(beta);
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      scale.v[j] = rstd.v[j] * scale.v[j];
      shift.v[j] = fmaf(-rest.v[j], scale.v[j], shift.v[j]);
    }
  }

  __device__ __forceinline__ Pack<kVec> forward(Pack<kVec> x, Activation activation) const {
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const float value = fmaf(x.v[j] - mean.v[j], scale.v[j], shift.v[j]);
      x.v[j] = activate(activation, value);
    }
    return x;
  }

  // x becomes x - mean, and dy what the activation lets through of it.
  __device__ __forceinline__ void centre_and_activate(Pack<kVec>& x, Pack<kVec>& dy,
                                                      Activation activation) const {
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      x.v[j] -= mean.v[j];
      const float value = fmaf(x.v[j], scale.v[j], shift.v[j]);
      dy.v[j] = activate_backward(activation, value, dy.v[j]);
    }
  }
};

}  // namespace device
}  // namespace sidechannel::kernels
