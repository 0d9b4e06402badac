#pragma once

// How the tensor-core kernels of conv1d work: half of a block's warps bring operands from global
// memory, round them to TF32 and put them into shared memory, one stage ahead of the other half,
// which multiplies. So rounding costs the tensor cores no time, and every operand is rounded once.

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

}  // namespace sidechannel::kernels::device
