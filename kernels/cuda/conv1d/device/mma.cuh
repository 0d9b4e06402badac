#pragma once

// How the tensor-core kernels of conv1d work: half of a block's warps bring operands from global
// memory, round them to TF32 and put them into shared memory, one stage ahead of the other half,
// which multiplies. So rounding costs the tensor cores no time, and every operand is rounded once.
//
// Or split once, for products as of fp32: into the number rounded and what that leaves (small),
// rounded too. A product is then three, and what small numbers make with each other is left out.
// As tensor cores cut sums off where others round (docs/numerics.md), they add up eight products
// at a time, beginning with the smallest, and these parts are added to the sums elsewhere.

#include <cuda_runtime.h>

#include "kernels/cuda/device/mma.cuh"

namespace sidechannel::kernels::device {

constexpr int kHelpers = 128;  // threads that bring operands: the block's last four warps

// Left operands of mma_tf32, 16 rows (m) x 8 columns (k): each lane's four in one 16-byte unit.
// With g = lane / 4 and t = lane % 4, a lane's unit is g / 2 * 8 + (g % 2 * 4 + g / 2 + t) % 8: in
// different groups of banks for eight lanes of neighbouring g and t, which read at once, and for
// eight of equal t, which are written at once.
struct LeftTile {
  alignas(16) float unit[32][4];

  __device__ static constexpr int unit_of(int g, int t) {
    return g / 2 * 8 + (g % 2 * 4 + g / 2 + t) % 8;
  }
};

// Which operand of a pair of left tiles, 32 rows, a number is: for row 4 * g + 2 * tile + e % 2 and
// k = t + 4 * (e / 2), it is a_e of tile `tile`, of the lane of g and t. So
//
// - four neighbouring rows of one k are two neighbouring operands of each tile:
__device__ __forceinline__ void put_rows(LeftTile* pair, int g, int t, int upper_k, float4 rows) {
  const int unit = LeftTile::unit_of(g, t);
  *reinterpret_cast<float2*>(&pair[0].unit[unit][2 * upper_k]) = make_float2(rows.x, rows.y);
  *reinterpret_cast<float2*>(&pair[1].unit[unit][2 * upper_k]) = make_float2(rows.z, rows.w);
}
// - and k = t, t + 4 of row 4 * g + row are two operands of one tile:
__device__ __forceinline__ void put_row(LeftTile* pair, int g, int t, int row, float low,
                                        float high) {
  float* unit = pair[row / 2].unit[LeftTile::unit_of(g, t)];
  unit[row % 2] = low;
  unit[row % 2 + 2] = high;
}

// Shapes of kernels (rows_mma.cuh, weights_mma.cuh) whose operands are split: kImages numbers of
// each are in shared memory.
template <class Shape>
struct Split : Shape {
  static constexpr int kImages = 2;
};

// The lane's four left operands of a tile, split.
struct SplitLeft {
  float4 big, small;
};

// sum(j) += tile * right(j) for j < kCount, with right(j) the lane's {b0, b1} and the small {b0,
// b1}.
template <int kCount, class Sum, class Right>
__device__ __forceinline__ void mma_split(const SplitLeft& left, Sum sum, Right right) {
  float part[kCount][4] = {};
#pragma unroll
  for (int j = 0; j < kCount; ++j) mma_tf32(part[j], left.small, right(j).x, right(j).y);
#pragma unroll
  for (int j = 0; j < kCount; ++j) mma_tf32(part[j], left.big, right(j).z, right(j).w);
#pragma unroll
  for (int j = 0; j < kCount; ++j) mma_tf32(part[j], left.big, right(j).x, right(j).y);
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) sum(j)[e] += part[j][e];
  }
}

}  // namespace sidechannel::kernels::device
