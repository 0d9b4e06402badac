#pragma once

// Where things stand in the memory of a convolution, for its kernels.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/device/vector.cuh"

namespace sidechannel::kernels::device {

// Place of W[t, c, j] in memory.
__device__ __forceinline__ std::int64_t weight_index(const NarrowProduct& p, int t, int c, int j) {
  return p.flip ? (std::int64_t{p.taps - 1 - t} * p.spread * p.columns + j) * p.channels + c
                : (std::int64_t{t} * p.channels + c) * p.columns + j;
}

// Writes y[row + column] and its neighbours: one, two or four columns, aligned to their size.
template <class Columns>
__device__ __forceinline__ void store(const NarrowProduct& p, std::int64_t row, int column,
                                      Columns sum) {
  float* y = p.y + row + column;
  if (p.bias != nullptr) sum = add(sum, load_as<Columns>(p.bias + column));
  if (p.write == Write::kAccumulate) sum = add(sum, load_as<Columns>(y));
  store_as(y, sum);
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
