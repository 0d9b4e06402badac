#pragma once

// What the files of fused normalization and ReLU have in common.
//
// A group of samples is a matrix [positions = samples_per_set * length, channels], and a set of
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

#include "kernels/cuda/device/tile.cuh"
#include "kernels/cuda/tiling.h"
#include "kernels/norm_relu.h"

namespace sidechannel::kernels {

// What the device needs of NormDims.
struct NormArguments {
  int set_channels;
  float per_value;  // 1 / values in a set
  float epsilon;
  bool relu;
};

inline NormArguments arguments_of(const NormDims& dims) {
  return {static_cast<int>(dims.channels_per_set), 1.0f / static_cast<float>(dims.set_size()),
          static_cast<float>(dims.epsilon), dims.relu};
}

// Puts the tiles of whole sets into `plan`, with the fewest of `items` positions a thread that do.
// False where a set is too large for a block.
inline bool cut_in_whole_sets(const NormDims& dims, int vec, std::initializer_list<int> items,
                              TilePlan& plan) {
  const std::int64_t positions = dims.samples_per_set * dims.length;
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
      std::int64_t rows = (positions + per_thread - 1) / per_thread;
      if (columns > 32 || rows * columns > kMaxTileThreads) continue;
      rows = (rows + rows_of_a_warp - 1) / rows_of_a_warp * rows_of_a_warp;
      plan.tiling = {positions, static_cast<int>(dims.channels), static_cast<int>(positions), 1};
      plan.vec = vec;
      plan.columns = columns;
      plan.rows = static_cast<int>(rows);
      plan.items = per_thread;
      plan.groups = dims.sample_groups();
      return true;
    }
  }
  return false;
}

namespace device {

// x_hat * gamma + beta for an x of which the mean is already taken; scale = rstd * gamma. Forward
// and backward must round alike, or the ReLU's mask of the two would differ: hence the fused
// multiply-add by name.
__device__ __forceinline__ float before_relu(float centred, float scale, float beta) {
  return fmaf(centred, scale, beta);
}

// The constants of a thread's channels.
template <int kVec>
struct NormConstants {
  Pack<kVec> mean, rstd, scale, beta;  // scale = rstd * gamma

  // The arrays begin with the thread's first channel.
  __device__ __forceinline__ void set_statistics(const float* mean_, const float* rstd_) {
    mean = Pack<kVec>::gather(mean_);
    rstd = Pack<kVec>::gather(rstd_);
  }
  __device__ __forceinline__ void set_population(const float* mean_, const float* variance,
                                                 float epsilon) {
    mean = Pack<kVec>::gather(mean_);
    rstd = Pack<kVec>::gather(variance);
#pragma unroll
    for (int j = 0; j < kVec; ++j) rstd.v[j] = 1.0f / sqrtf(rstd.v[j] + epsilon);
  }
  __device__ __forceinline__ void set_scale(const float* gamma, const float* beta_) {
    scale = Pack<kVec>::gather(gamma);
    beta = Pack<kVec>::gather(beta_);
#pragma unroll
    for (int j = 0; j < kVec; ++j) scale.v[j] = rstd.v[j] * scale.v[j];
  }

  __device__ __forceinline__ Pack<kVec> forward(Pack<kVec> x, bool relu) const {
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const float value = before_relu(x.v[j] - mean.v[j], scale.v[j], beta.v[j]);
      x.v[j] = relu && value < 0.0f ? 0.0f : value;  // NaN stays NaN
    }
    return x;
  }

  // x becomes x - mean, and dy what the ReLU let through of it.
  __device__ __forceinline__ void centre_and_mask(Pack<kVec>& x, Pack<kVec>& dy, bool relu) const {
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      x.v[j] -= mean.v[j];
      const float value = before_relu(x.v[j], scale.v[j], beta.v[j]);
      if (relu && !(value > 0.0f)) dy.v[j] = 0.0f;
    }
  }
};

}  // namespace device
}  // namespace sidechannel::kernels
