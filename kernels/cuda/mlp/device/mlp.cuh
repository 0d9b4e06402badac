#pragma once

// What the kernels of mlp have in common: products of a tile of 128 rows with weights that stream
// through shared memory, on tensor cores, in TF32.
//
// A block has eight warps, 2 x 4: each computes 64 rows x 64 of the 256 units of a layer, in
// products of mma.sync m16n8k8, in which rows (m) are units, columns (n) are rows of the tile, and
// the sum (k) runs over the inputs. With g = lane / 4 and t = lane % 4:
//
//   k     input 4 * t + 2 * step + {0, 1} of a stage's 16, for k = t and t + 4, step = 0, 1
//   n     row 8 * j + g / 2 + 4 * (g % 2) of the warp's, j < 8; so a lane's sums are of rows
//         8 * j + t + 4 * e, e = 0, 1
//   m     unit 32 * pair + 4 * g + 2 * tile + {0, 1} of the warp's, for m = g and g + 8
//
// The inputs of a product lie in planes of four, [input / 4][place of the row][4]. Which place a
// row has, and that a plane has 130, lets both ways to get at it have no bank conflicts: eight
// lanes of two g, which read a product's right operands (four planes, two rows), and eight lanes
// which write its sums, or read them as right operands of a product over rows (two planes, four
// rows).

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/ptx.cuh"
#include "kernels/cuda/mlp/kernels.h"

namespace sidechannel::kernels::device {

constexpr int kMlpThreads = 256;
constexpr int kMlpStageInputs = 16;
constexpr int kMlpWidthStages = kMlpWidth / kMlpStageInputs;

// The left operands of 16 inputs, in the order in which lanes read them.
struct MlpStage {
  float4 unit[2][kMlpWidth / 16][32];  // [step][16 units of the layer][lane]
};

struct MlpPlane {
  float4 place[kMlpRows + 2];

  __device__ static constexpr int of_row(int row) {
    return (row & ~7) | (row & 2) << 1 | (row & 4) >> 1 | ((row ^ row >> 2) & 1);
  }
};

// What a thread computes of a tile.
struct MlpLane {
  int thread, lane, g, t;
  int row;   // of the tile, the warp's first
  int pair;  // of 32 units, likewise

  __device__ MlpLane()
      : thread(static_cast<int>(threadIdx.x)),
        lane(thread % 32),
        g(lane / 4),
        t(lane % 4),
        row(thread / 32 % 2 * 64),
        pair(thread / 64 * 2) {}

  // Places in a plane, of the warp's first eight rows: of the lane's right operands, of its sums.
  __device__ __forceinline__ int right_place() const {
    return row + MlpPlane::of_row(g / 2 + 4 * (g % 2));
  }
  __device__ __forceinline__ int sums_place(int e) const {
    return row + MlpPlane::of_row(t + 4 * e);
  }
};

// A lane's sums: [16 units][8 rows][of the product].
using MlpSums = float[4][8][4];

__device__ __forceinline__ void clear(MlpSums& sum) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[i][j][e] = 0;
    }
  }
}

// Adds a stage's products; right: inputs 4 * t + {0, 1, 2, 3} of each of the lane's rows.
__device__ __forceinline__ void multiply(MlpSums& sum, const MlpStage& stage, const MlpLane& of,
                                         const float4 (&right)[8]) {
#pragma unroll
  for (int step = 0; step < 2; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 left = stage.unit[step][2 * of.pair + i][of.lane];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        mma_tf32(sum[i][j], left, step == 0 ? right[j].x : right[j].z,
                 step == 0 ? right[j].y : right[j].w);
      }
    }
  }
}

// Calls visit(pair, j, e, value) for all of a lane's sums, four neighbouring units at a time:
// value(i) is that of unit 32 * pair + 4 * g + i of the warp's, row 8 * j + t + 4 * e.
template <class Visit>
__device__ __forceinline__ void for_quads(MlpSums& sum, Visit visit) {
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        visit(pair, j, e, [&sum, pair, j, e](int i) -> float& {
          return sum[2 * pair + i / 2][j][i % 2 * 2 + e];
        });
      }
    }
  }
}

// The stages of the weights of tiles [tile, last), kStages for each, through a ring of kSlots.
template <int kStages, int kSlots>
struct MlpStream {
  const MlpStage* packed;  // [networks, kStages]
  int tiles;               // of a network
  int tile, last;
  int stage = 0;
  int slot = 0;  // of the next stage to be brought

  // Begins to bring the next stage, and ends a group of copies.
  __device__ __forceinline__ void bring(MlpStage (&ring)[kSlots], int thread) {
    if (tile < last) {
      const auto* from = reinterpret_cast<const float*>(packed + tile / tiles * kStages + stage);
      auto* to = reinterpret_cast<float*>(&ring[slot]);
#pragma unroll
      for (int i = 0; i < static_cast<int>(sizeof(MlpStage) / 16) / kMlpThreads; ++i) {
        const int at = 4 * (thread + i * kMlpThreads);
        ptx::cp_async(to + at, from + at, true);
      }
      if (++stage == kStages) stage = 0, ++tile;
    }
    slot = (slot + 1) % kSlots;
    ptx::cp_async_commit_group();
  }
  __device__ __forceinline__ void begin(MlpStage (&ring)[kSlots], int thread) {
#pragma unroll
    for (int i = 0; i + 1 < kSlots; ++i) bring(ring, thread);
  }
  // The next stage, when it is there and all threads are done with the one before, whose slot is
  // filled again.
  __device__ __forceinline__ const MlpStage& next(MlpStage (&ring)[kSlots], int thread) {
    ptx::cp_async_wait_group<kSlots - 2>();
    __syncthreads();  // everybody's copies are complete; the stage before has been read
    bring(ring, thread);
    return ring[slot];  // the oldest of those in the ring
  }
};

// Begins to copy a tile of x [rows, kIn] to planes: zeros beyond the last row.
template <int kIn>
__device__ __forceinline__ void bring_rows(const float* x, int rows, int first,
                                           MlpPlane (&planes)[kIn / 4], int thread) {
  constexpr int kQuads = kIn / 4;
  constexpr int kRowsOfPass = kMlpThreads / kQuads;
  // Eight neighbours take four quads of two rows: different groups of banks.
  const int quad = thread % 4 + thread / 8 % (kQuads / 4) * 4;
  const int row = thread / 4 % 2 + thread / (2 * kQuads) * 2;
  float4* const to = &planes[quad].place[MlpPlane::of_row(row)];
  const float* const from = x + std::int64_t{first + row} * kIn + 4 * quad;
#pragma unroll
  for (int at = 0; at < kMlpRows; at += kRowsOfPass) {
    const bool inside = first + row + at < rows;
    ptx::cp_async(&to[at].x, inside ? from + at * kIn : x, inside);
  }
}

}  // namespace sidechannel::kernels::device
