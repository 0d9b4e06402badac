#pragma once

// Where things stand in the memory of a convolution, for its kernels.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/conv1d/kernels.h"

namespace sidechannel::kernels::device {

// Place of W[t, c, j] in memory.
__device__ __forceinline__ std::int64_t weight_index(const NarrowProduct& p, int t, int c, int j) {
  return p.flip ? (std::int64_t{p.taps - 1 - t} * p.columns + j) * p.channels + c
                : (std::int64_t{t} * p.channels + c) * p.columns + j;
}

// Writes y[row + column], where row is a multiple of the number of columns.
__device__ __forceinline__ void store(const NarrowProduct& p, std::int64_t row, int column,
                                      float sum) {
  float* y = p.y + row + column;
  if (p.bias != nullptr) sum += p.bias[column];
  if (p.write == Write::kAccumulate) sum += *y;
  *y = sum;
}

// Four neighbouring columns, 16-byte aligned.
__device__ __forceinline__ void store(const NarrowProduct& p, std::int64_t row, int column,
                                      float4 sum) {
  auto* y = reinterpret_cast<float4*>(p.y + row + column);
  const auto add = [&sum](const float4& other) {
    sum.x += other.x;
    sum.y += other.y;
    sum.z += other.z;
    sum.w += other.w;
  };
  if (p.bias != nullptr) add(*reinterpret_cast<const float4*>(p.bias + column));
  if (p.write == Write::kAccumulate) add(*y);
  *y = sum;
}

// The chunks [begin, end) of a split. Every chunk belongs to one split.
struct Chunks {
  int begin, end;

  __device__ Chunks(const WeightSums& p, int split)
      : begin(static_cast<int>(p.chunks * split / p.splits)),
        end(static_cast<int>(p.chunks * (split + 1) / p.splits)) {}
};

// Positions [first, first + count) of dy's sample n.
struct Chunk {
  int n, first, count;

  __device__ Chunk(const WeightSums& p, int index)
      : n(index / p.chunks_per_sample),
        first(index % p.chunks_per_sample * p.chunk),
        count(min(p.chunk, p.length_out - first)) {}
};

}  // namespace sidechannel::kernels::device
