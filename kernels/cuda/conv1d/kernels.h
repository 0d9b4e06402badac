#pragma once

// What the CUDA files of conv1d share: the problems that its kernels solve, and which kernels there
// are. conv1d.cu chooses among them. Plain C++17, for host and device.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda_queue.h"
#include "kernels/row_product.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// --- The forward pass and, with flipped weights, the input gradient ------------------------------

using NarrowProduct = RowProduct<float, int>;

struct RowVariant {
  const char* name;
  int channels;        // C_in = C_out that it is made for; 0: any
  int positions;       // of y that a block computes
  std::size_t shared;  // bytes of shared memory of a block
  void (*run)(CudaQueue& queue, const NarrowProduct& product);
};

extern const RowVariant kTiledRows;              // any shape
extern const RowVariant kOneChannelIn;           // channels == 1
extern const RowVariant kOneChannelOut;          // columns == 1
const std::vector<RowVariant>& ffma_rows();      // 5 taps
const std::vector<RowVariant>& tf32_mma_rows();  // 5 taps, sm_80

// --- Parameter gradients -------------------------------------------------------------------------
//
//   dw[t, ci, co] = sum over n, l of x[n, l + t - padding, ci] * dy[n, l, co],  db[co] = sum of dy
//
// in two stages. The positions of all samples are cut into chunks (of neighbours in one sample) and
// the chunks, in order, into `splits` ranges of about the same size. First the sums of each range
// are written to a row of `partial`, then the rows are added up, in a fixed order.
struct WeightSums {
  int batch, length, length_out, channels_in, channels_out, taps, padding;
  const float* x;      // [batch, length, channels_in]
  const float* dy;     // [batch, length_out, channels_out]
  bool weights, bias;  // which of the two gradients are asked for
  int chunk;           // positions of a chunk, at most
  int chunks_per_sample;
  int splits;
  std::int64_t chunks;       // of all samples
  std::int64_t weight_sums;  // weights of the layer
  std::int64_t row;          // floats of a row of partial: the sums for dw, then those for db
  float* partial;            // [splits, row]
};

struct WeightVariant {
  const char* name;
  int channels;  // C_in = C_out that it is made for; 0: any
  int chunk;
  std::size_t shared;
  int blocks_per_multiprocessor;  // so many that it has warps enough to hide latencies
  std::int64_t (*blocks_per_split)(const WeightSums& sums);
  void (*run)(CudaQueue& queue, const WeightSums& sums);
};

extern const WeightVariant kTiledWeights;              // any shape
extern const WeightVariant kOneChannelWeights;         // channels_in == 1 or channels_out == 1
const std::vector<WeightVariant>& ffma_weights();      // 5 taps
const std::vector<WeightVariant>& tf32_mma_weights();  // 5 taps, sm_80

// db alone, into the ends of partial's rows.
void sum_columns(CudaQueue& queue, const WeightSums& sums);
// The second stage.
void add_splits(CudaQueue& queue, const WeightSums& sums, GradOut<float> dw, GradOut<float> db);

}  // namespace sidechannel::kernels
