#pragma once

// What the CUDA files of conv1d share: the problems that its kernels solve, and which kernels there
// are, each a row of a table. choose.cu chooses among them. Plain C++17, for host and device.

#include <cstddef>
#include <cstdint>

#include "kernels/cuda_queue.h"
#include "kernels/row_product.h"
#include "kernels/view.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// What a kernel asks of a problem, of buffers and of the device; 0 asks for nothing.
struct Needs {
  int channels_in = 0, channels_out = 0, taps = 0, stride = 0;  // exactly so many
  Precision precision = Precision::kFp32;  // TF32: that operands may be rounded to it
  int compute_capability = 0;              // at least
  std::size_t shared = 0;                  // bytes of shared memory of a block
  bool aligned = false;                    // buffers, to 16 bytes
  bool fast_tf32 = false;                  // a product in fp32 takes longer than three in TF32
  bool hopper = false;                     // code of sm_90a: 9.0 and nothing else

  // Of the kernels for hidden layers of `channels` in and out: in fp32, and on tensor cores in TF32
  // or, for fp32, in three products of TF32 for each.
  static constexpr Needs hidden(int channels, int taps, std::size_t shared) {
    return {channels, channels, taps, 1, Precision::kFp32, 0, shared, true};
  }
  static constexpr Needs tensor_cores(int channels, int taps, bool split, std::size_t shared) {
    return {channels, channels, taps, 1,    split ? Precision::kFp32 : Precision::kTf32,
            80,       shared,   true, split};
  }
};

// --- The forward pass and, with flipped weights, the input gradient ------------------------------

using NarrowProduct = RowProduct<float, int>;

struct RowVariant {
  const char* name;
  Needs needs;
  int positions;  // of y that a block computes, or one of its threads where they share nothing
  int cost;       // of a position, beside other kernels for the same problem
  void (*run)(CudaQueue& queue, const NarrowProduct& product);
};

extern const RowVariant kTiledRows;
extern const RowVariant kOneChannelRows[2];
extern const RowVariant kFfmaRows[8];
extern const RowVariant kMmaRows[19];

// --- Parameter gradients -------------------------------------------------------------------------
//
//   dw[t, ci, co] = sum over n, l of x[n, l * stride + t - padding, ci] * dy[n, l, co]
//   db[co] = sum of dy
//
// in two stages. The positions of all samples are cut into chunks (of neighbours in one sample) and
// the chunks, in order, into `splits` ranges of about the same size. First the sums of each range
// are written to a row of `partial`, then the rows are added up, in a fixed order.
struct WeightSums {
  int batch, length, length_out, channels_in, channels_out, taps, padding, stride;
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
  Needs needs;
  int chunk;
  int blocks_per_multiprocessor;  // so many that it has warps enough to hide latencies
  int cost;                       // of a position, beside other kernels for the same problem
  std::int64_t (*blocks_per_split)(const WeightSums& sums);
  void (*run)(CudaQueue& queue, const WeightSums& sums);
};

extern const WeightVariant kTiledWeights;
extern const WeightVariant kOneChannelWeights[2];
extern const WeightVariant kFfmaWeights[4];
extern const WeightVariant kMmaWeights[8];

// db alone, into the ends of partial's rows.
void sum_columns(CudaQueue& queue, const WeightSums& sums);
// The second stage, of layers of one shape; as many as a launch takes at a time.
struct SplitSums {
  WeightSums sums;
  GradOut<float> dw, db;
};
void add_splits(CudaQueue& queue, View<SplitSums> layers);

}  // namespace sidechannel::kernels
