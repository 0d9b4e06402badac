// Perceptrons on tensor cores, the way back, of all of them in each launch. With m1 and m2 the
// masks of what the ReLUs let through (1 where h > 0) and everything summed over rows r:
//
//   v[j, k] = w3[j] w2[j, k],  s[j, k] = sum of m2[r, j] dy[r] h1[r, k]
//   g1[r, k] = m1[r, k] dy[r] * sum over j of m2[r, j] v[j, k]
//   dw1[k, c] = sum of g1[r, k] x[r, c],  db1[k] = sum of g1[r, k]
//   dw2[j, k] = w3[j] s[j, k],  db2[j] = w3[j] * sum of m2[r, j] dy[r]
//   dw3[j] = sum over k of w2[j, k] s[j, k] + b2[j] * sum of m2[r, j] dy[r],  db3 = sum of dy[r]
//
// for the last layer has one output: what comes back through it is one number for each row, and h2
// enters as a mask alone, as dw3 = sum of dy h2 is the same sum in another order. So neither h2 nor
// any gradient of a hidden layer is ever in memory.
//
//   mlp_backward_first   dw1 and db1: blocks walk over tiles of 128 rows of a network; g1 of a tile
//                        is in the registers in which dw1's left operands are needed
//   mlp_backward_second  s and its sums over m2 dy: a block sums 128 columns of s over a range of
//                        rows; its left operands are masks, times dy
//   mlp_backward_sums    adds the ranges' parts, in order, and makes the gradients of them
//
// Order of a sum: rows eight by eight, whose sum the tensor core takes in an order of its own; of
// dw1 the two halves of a tile apart. Of biases: a lane's rows, of a tile or of a range, then a
// tree over the lanes.

#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/conv1d/choose.h"
#include "kernels/cuda/device/pack.cuh"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/mlp/device/mlp.cuh"
#include "kernels/cuda/mlp/kernels.h"
#include "kernels/cuda/mlp/pack.cuh"

namespace sidechannel::kernels {
namespace {

using device::MlpPlane;
using device::MlpStage;

// A range of rows of a network: the blocks' sums.
struct Ranges {
  int of_first, of_second;  // how many
  float* first;             // [networks, of_first, width in + width]: dw1, db1
  float* second;            // [networks, of_second, kSecond]: s, its sums over m2 dy, the sum of dy
  static constexpr int kSecond = kMlpWidth * kMlpWidth + kMlpWidth + 4;
};

struct Shape {
  int rows;
  int tiles;  // of a network
  std::int64_t kept_floats, kept_rows;
  const float* kept;
  const float* dy;  // [networks, rows]

  __device__ const float* hidden(int network) const { return kept + network * kept_floats; }
  __device__ const float* above(int network, int layer) const {
    return hidden(network) + kept_rows * (kMlpWidth + 8 * layer);
  }
};

// 1 or 0, each a TF32 number.
__device__ __forceinline__ float one_if(unsigned word, unsigned bit) {
  return (word & bit) != 0 ? 1.0f : 0.0f;
}

// --- dw1 and db1 ---------------------------------------------------------------------------------

struct FirstArguments {
  Shape shape;
  const MlpStage* packed;  // v, transposed
  Ranges ranges;
  const float* x[kMostMlps];
};

template <int kIn>
struct FirstMemory {
  MlpStage ring[3];
  MlpPlane x[kIn / 4];
  float4 sums[kIn / 2][device::kMlpThreads];  // of dw1, each thread's own
  uint4 above2[2][kMlpRows / 8][16];          // of this tile and of the next one
  uint4 above1[kMlpRows / 8][16];
  float dy[kMlpRows];
  float bias[device::kMlpThreads / 32][64];  // of the warps
};

template <int kIn>
__global__ void __launch_bounds__(device::kMlpThreads, 1)
    mlp_backward_first(const __grid_constant__ FirstArguments p) {
  device::after_earlier_launches();
  constexpr int kParts = kIn / 32;
  auto& shared = *device::dynamic_shared<FirstMemory<kIn>>();
  const device::MlpLane of;
  const int network = static_cast<int>(blockIdx.y), range = static_cast<int>(blockIdx.x);
  const int first = static_cast<int>(std::int64_t{p.shape.tiles} * range / gridDim.x);
  const int last = static_cast<int>(std::int64_t{p.shape.tiles} * (range + 1) / gridDim.x);
  const auto bring_above = [&](int layer, int tile, uint4(&to)[kMlpRows / 8][16]) {
    static_assert(sizeof to == device::kMlpThreads * sizeof(uint4));
    device::ptx::cp_async(
        reinterpret_cast<float*>(&to[0][0] + of.thread),
        p.shape.above(network, layer) + std::int64_t{tile} * (kMlpRows * 8) + 4 * of.thread, true);
  };
  device::MlpStream<device::kMlpWidthStages, 3> stream{p.packed + network * device::kMlpWidthStages,
                                                       p.shape.tiles, first, last};
  bring_above(1, first, shared.above2[first % 2]);
  stream.begin(shared.ring, of.thread);
#pragma unroll
  for (int i = 0; i < kIn / 2; ++i) shared.sums[i][of.thread] = make_float4(0, 0, 0, 0);

  // Of a warp's unit, by the lane of t = 0.
  auto& warp_bias = shared.bias[of.thread / 32];
  if (of.t == 0) {
#pragma unroll
    for (int i = 0; i < 8; ++i) warp_bias[32 * (i / 4) + 4 * of.g + i % 4] = 0;
  }
  device::MlpSums sum;
#pragma unroll 1
  for (int tile = first; tile < last; ++tile) {
    const int first_row = tile * kMlpRows;
    __syncthreads();  // the tile before has been used up
    device::bring_rows<kIn>(p.x[network], p.shape.rows, first_row, shared.x, of.thread);
    bring_above(0, tile, shared.above1);
    if (tile + 1 < last) bring_above(1, tile + 1, shared.above2[(tile + 1) % 2]);
    const int own_row = first_row + of.thread;
    if (of.thread < kMlpRows) {
      shared.dy[of.thread] = own_row < p.shape.rows
                                 ? p.shape.dy[std::int64_t{network} * p.shape.rows + own_row]
                                 : 0.0f;
    }

    device::clear(sum);
#pragma unroll 1
    for (int s = 0; s < device::kMlpWidthStages; ++s) {
      const MlpStage& stage = stream.next(shared.ring, of.thread);
      const unsigned bit = 1u << (16 * (s % 2) + 4 * of.t + of.g / 2);
      float4 right[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const uint4 words = shared.above2[tile % 2][of.row / 8 + j][8 * (of.g % 2) + s / 2];
        right[j] = make_float4(one_if(words.x, bit), one_if(words.y, bit), one_if(words.z, bit),
                               one_if(words.w, bit));
      }
      device::multiply(sum, stage, of, right);
    }

    // g1, rounded.
    const unsigned own_bit = 1u << of.lane;
    float bias[2][4] = {};
    device::for_quads(sum, [&](int pair, int j, int e, auto value) {
      const uint4 words = shared.above1[of.row / 8 + j][8 * e + of.pair + pair];
      const float d = shared.dy[of.row + 8 * j + of.t + 4 * e];
      const unsigned word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float g = (word[i] & own_bit) != 0 ? d * value(i) : 0.0f;
        bias[pair][i] += g;
        value(i) = device::to_tf32(g);
      }
    });

#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float of_tile = device::warp_sum<4>(bias[pair][i]);
        if (of.t == 0) warp_bias[32 * pair + 4 * of.g + i] += of_tile;
      }
    }

    // As left operands of dw1, whose k are rows: of k = t row t of eight, of k = t + 4 row t + 4.
    // n is input 4 * n + c of 32, c = 0 .. 3.
#pragma unroll 1
    for (int u = 0; u < kParts; ++u) {
      float product[4][4][4];  // [16 units][c][of the product]
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float4 before = shared.sums[16 * u + 4 * i + c][of.thread];
          product[i][c][0] = before.x, product[i][c][1] = before.y;
          product[i][c][2] = before.z, product[i][c][3] = before.w;
        }
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const MlpPlane& plane = shared.x[8 * u + of.g];
        const float4 low = device::to_tf32(plane.place[of.sums_place(0) + 8 * j]);
        const float4 high = device::to_tf32(plane.place[of.sums_place(1) + 8 * j]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const auto& g = sum[i][j];
          const float4 left = make_float4(g[0], g[2], g[1], g[3]);
          device::mma_tf32(product[i][0], left, low.x, high.x);
          device::mma_tf32(product[i][1], left, low.y, high.y);
          device::mma_tf32(product[i][2], left, low.z, high.z);
          device::mma_tf32(product[i][3], left, low.w, high.w);
        }
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const auto& now = product[i][c];
          shared.sums[16 * u + 4 * i + c][of.thread] = make_float4(now[0], now[1], now[2], now[3]);
        }
      }
    }
  }

  // The warps of the same units add what they have.
  __syncthreads();  // all threads' sums stand
  float* const out = p.ranges.first + (std::int64_t{network} * p.ranges.of_first + range) *
                                          (kMlpWidth * kIn + kMlpWidth);
  if (of.row == 0) {
#pragma unroll
    for (int u = 0; u < kParts; ++u) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float4 total[4];
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const float4 a = shared.sums[16 * u + 4 * i + c][of.thread];
          const float4 b = shared.sums[16 * u + 4 * i + c][of.thread + 32];
          total[c] = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
        }
        // The lane has n = 2 * t + {0, 1} of units m = g and g + 8.
        float* const to =
            out + (32 * (of.pair + i / 2) + 4 * of.g + i % 2 * 2) * kIn + 32 * u + 8 * of.t;
        const auto store = [&](float* at, float x, float y, float z, float w) {
          *reinterpret_cast<float4*>(at) = make_float4(x, y, z, w);
        };
        store(to, total[0].x, total[1].x, total[2].x, total[3].x);
        store(to + 4, total[0].y, total[1].y, total[2].y, total[3].y);
        store(to + kIn, total[0].z, total[1].z, total[2].z, total[3].z);
        store(to + kIn + 4, total[0].w, total[1].w, total[2].w, total[3].w);
      }
    }
  }
  __syncthreads();                       // all warps' sums for the bias stand
  const int warps = of.thread / 64 * 2;  // of the thread's unit
  out[kMlpWidth * kIn + of.thread] =
      shared.bias[warps][of.thread % 64] + shared.bias[warps + 1][of.thread % 64];
}

// --- s -------------------------------------------------------------------------------------------

constexpr int kChunk = 32;                // rows that are brought at once
constexpr int kColumns = kMlpWidth / 2;   // of s, of a block
constexpr int kPitch = kColumns / 4 + 2;  // for reads of four rows x two units at once
constexpr int kChunks = 4;                // in the ring

struct SecondArguments {
  Shape shape;
  Ranges ranges;
};

struct SecondMemory {
  struct Chunk {
    float4 hidden[kChunk][kPitch];
    uint4 above[kChunk / 8][16];
  } ring[kChunks];
};

__global__ void __launch_bounds__(device::kMlpThreads, 1)
    mlp_backward_second(const __grid_constant__ SecondArguments p) {
  device::after_earlier_launches();
  auto& ring = device::dynamic_shared<SecondMemory>()->ring;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32, g = lane / 4, t = lane % 4;
  const int unit = thread / 64 * 64;        // of h2, the warp's first of 64
  const int column = thread / 32 % 2 * 64;  // of the block's
  const int first_column = static_cast<int>(blockIdx.x) * kColumns;
  const int range = static_cast<int>(blockIdx.y), network = static_cast<int>(blockIdx.z);
  const std::int64_t chunks = p.shape.kept_rows / kChunk;
  const int first = static_cast<int>(chunks * range / gridDim.y);
  const int last = static_cast<int>(chunks * (range + 1) / gridDim.y);
  const float* const hidden = p.shape.hidden(network) + first_column;
  const float* const above = p.shape.above(network, 1);
  const float* const dy = p.shape.dy + std::int64_t{network} * p.shape.rows;

  const auto bring = [&](int chunk) {
    if (chunk < last) {
      auto& to = ring[(chunk - first) % kChunks];
      const std::int64_t row = std::int64_t{chunk} * kChunk;
#pragma unroll
      for (int i = 0; i < kChunk * kColumns / 4 / device::kMlpThreads; ++i) {
        const int at = thread + i * device::kMlpThreads;
        const int own_row = at / (kColumns / 4), quad = at % (kColumns / 4);
        device::ptx::cp_async(&to.hidden[own_row][quad].x,
                              hidden + (row + own_row) * kMlpWidth + 4 * quad, true);
      }
      if (thread < kChunk / 8 * 16) {
        device::ptx::cp_async(reinterpret_cast<float*>(&to.above[0][0] + thread),
                              above + row * 8 + 4 * thread, true);
      }
    }
    device::ptx::cp_async_commit_group();
  };
  // dy of the rows whose operands are the lane's: row 8 * j + t + 4 * e.
  const auto load_dy = [&](int chunk, float(&to)[kChunk / 8][2]) {
#pragma unroll
    for (int j = 0; j < kChunk / 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const std::int64_t row = std::int64_t{chunk} * kChunk + 8 * j + t + 4 * e;
        to[j][e] = chunk < last && row < p.shape.rows ? dy[row] : 0.0f;
      }
    }
  };

  float sum[4][8][4] = {};  // [16 units][column 4 * n + c of 32, as 4 * its 32 + c][of the product]
  float of_units[2][4] = {};  // of m2 dy, units 32 * pair + 4 * g + i
  float of_rows = 0;          // of dy
  float next_dy[kChunk / 8][2];
  load_dy(first, next_dy);
#pragma unroll
  for (int i = 0; i + 1 < kChunks; ++i) bring(first + i);
  const unsigned bit = 1u << lane;
#pragma unroll 1
  for (int chunk = first; chunk < last; ++chunk) {
    device::ptx::cp_async_wait_group<kChunks - 2>();
    __syncthreads();  // everybody's copies are complete; the chunk before has been read
    bring(chunk + kChunks - 1);
    const auto& from = ring[(chunk - first) % kChunks];
    float its_dy[kChunk / 8][2];
#pragma unroll
    for (int j = 0; j < kChunk / 8; ++j) its_dy[j][0] = next_dy[j][0], its_dy[j][1] = next_dy[j][1];
    load_dy(chunk + 1, next_dy);
#pragma unroll
    for (int j = 0; j < kChunk / 8; ++j) {
      float left[2][4][2];  // [pair][i][e]
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float exact = its_dy[j][e], rounded = device::to_tf32(exact);
        of_rows += exact;
#pragma unroll
        for (int pair = 0; pair < 2; ++pair) {
          const uint4 words = from.above[j][8 * e + unit / 32 + pair];
          const unsigned word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const bool through = (word[i] & bit) != 0;
            left[pair][i][e] = through ? rounded : 0.0f;
            if (through) of_units[pair][i] += exact;
          }
        }
      }
#pragma unroll
      for (int u = 0; u < 2; ++u) {
        const float4 low = from.hidden[8 * j + t][column / 4 + 8 * u + g];
        const float4 high = from.hidden[8 * j + t + 4][column / 4 + 8 * u + g];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const auto& a = left[i / 2];
          const int own = i % 2 * 2;
          const float4 operands = make_float4(a[own][0], a[own + 1][0], a[own][1], a[own + 1][1]);
          device::mma_tf32(sum[i][4 * u], operands, low.x, high.x);
          device::mma_tf32(sum[i][4 * u + 1], operands, low.y, high.y);
          device::mma_tf32(sum[i][4 * u + 2], operands, low.z, high.z);
          device::mma_tf32(sum[i][4 * u + 3], operands, low.w, high.w);
        }
      }
    }
  }

  float* const out =
      p.ranges.second + (std::int64_t{network} * p.ranges.of_second + range) * Ranges::kSecond;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int u = 0; u < 2; ++u) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {  // unit m = g or g + 8, column n = 2 * t or 2 * t + 1
        const int own = unit + i / 2 * 32 + 4 * g + i % 2 * 2 + q / 2;
        float* const to =
            out + own * kMlpWidth + first_column + column + 32 * u + 8 * t + q % 2 * 4;
        *reinterpret_cast<float4*>(to) = make_float4(sum[i][4 * u][q], sum[i][4 * u + 1][q],
                                                     sum[i][4 * u + 2][q], sum[i][4 * u + 3][q]);
      }
    }
  }
  if (blockIdx.x != 0 || column != 0) return;  // whole warps
  float* const sums = out + kMlpWidth * kMlpWidth;
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float total = device::warp_sum<4>(of_units[pair][i]);
      if (t == 0) sums[unit + 32 * pair + 4 * g + i] = total;
    }
  }
  of_rows = device::warp_sum<4>(of_rows);
  if (thread == 0) sums[kMlpWidth] = of_rows;
}

// --- The gradients -------------------------------------------------------------------------------

struct SumsNetwork {
  const float *w2, *b2, *w3;
  GradOut<float> dw1, db1, dw2, db2, dw3, db3;
};
struct SumsArguments {
  int in;
  Ranges ranges;
  SumsNetwork at[kMostMlps];
};

__device__ __forceinline__ void write_one(GradOut<float> to, std::int64_t at, float value) {
  if (to.data) device::write(device::Pack<1>{{value}}, to, at);
}

// A block for each unit of each network, a thread for each column of its rows.
__global__ void __launch_bounds__(kMlpWidth)
    mlp_backward_sums(const __grid_constant__ SumsArguments p) {
  device::after_earlier_launches();
  const int unit = static_cast<int>(blockIdx.x), network = static_cast<int>(blockIdx.y);
  const int column = static_cast<int>(threadIdx.x);
  const SumsNetwork& n = p.at[network];
  const auto add_ranges = [](const float* from, int ranges, int stride) {
    float total = 0;
    for (int i = 0; i < ranges; ++i) total += from[std::int64_t{i} * stride];
    return total;
  };
  const int of_first = kMlpWidth * p.in + kMlpWidth;
  const float* const first = p.ranges.first + std::int64_t{network} * p.ranges.of_first * of_first;
  const float* const second =
      p.ranges.second + std::int64_t{network} * p.ranges.of_second * Ranges::kSecond;
  const auto of_second = [&](int at) {
    return add_ranges(second + at, p.ranges.of_second, Ranges::kSecond);
  };

  const float s = of_second(unit * kMlpWidth + column);
  const float w3 = n.w3[unit];
  write_one(n.dw2, unit * kMlpWidth + column, w3 * s);
  // As the way forward had w2.
  const float product =
      device::block_sum(device::to_tf32(n.w2[std::int64_t{unit} * kMlpWidth + column]) * s);
  if (column < p.in) {
    write_one(n.dw1, unit * p.in + column,
              add_ranges(first + unit * p.in + column, p.ranges.of_first, of_first));
  }
  if (column != 0) return;
  write_one(n.db1, unit, add_ranges(first + kMlpWidth * p.in + unit, p.ranges.of_first, of_first));
  const float let_through = of_second(kMlpWidth * kMlpWidth + unit);
  write_one(n.db2, unit, w3 * let_through);
  write_one(n.dw3, unit, fmaf(n.b2[unit], let_through, product));
  if (unit == 0) write_one(n.db3, 0, of_second(kMlpWidth * kMlpWidth + kMlpWidth));
}

template <int kIn>
void backward(CudaQueue& queue, const MlpBackward<float>& call) {
  const auto count = static_cast<int>(call.networks.size());
  const MlpKept kept(call.dims);
  Shape shape = {};
  shape.rows = narrow(call.dims.rows);
  shape.tiles = narrow(kept.rows / kMlpRows);
  shape.kept_floats = kept.floats();
  shape.kept_rows = kept.rows;
  shape.kept = call.kept;
  shape.dy = call.dy;

  // One round of blocks, of each launch.
  const int multiprocessors = Target(queue).multiprocessors();
  Ranges ranges = {};
  ranges.of_first = std::clamp(multiprocessors / count, 1, shape.tiles);
  ranges.of_second = std::clamp(multiprocessors / (2 * count), 1, shape.tiles);
  const auto floats_of = [&](int of_network) {
    return static_cast<std::size_t>(count) * static_cast<std::size_t>(of_network);
  };
  const std::size_t first = floats_of(ranges.of_first * (kMlpWidth * kIn + kMlpWidth));
  const std::size_t second = floats_of(ranges.of_second * Ranges::kSecond);
  const std::size_t stages = floats_of(device::kMlpWidthStages);
  auto* packed = static_cast<MlpStage*>(
      queue.scratch(stages * sizeof(MlpStage) + (first + second) * sizeof(float)));
  ranges.first = reinterpret_cast<float*>(packed + stages);
  ranges.second = ranges.first + first;

  MlpMatrices<kMostMlps> matrices = {};
  FirstArguments of_first = {};
  SumsArguments sums = {};
  for (int i = 0; i < count; ++i) {
    const MlpNetwork<float>& n = call.networks[static_cast<std::size_t>(i)];
    const auto& [dw1, db1, dw2, db2, dw3, db3] = call.gradients[static_cast<std::size_t>(i)];
    matrices.at[i] = {n.w2, n.w3,      packed + i * device::kMlpWidthStages,
                      1,    kMlpWidth, device::kMlpWidthStages};
    of_first.x[i] = n.x;
    sums.at[i] = {n.w2, n.b2, n.w3, dw1, db1, dw2, db2, dw3, db3};
  }
  pack(queue, "mlp_backward: weights", matrices, call.networks.size(), device::kMlpWidthStages);

  of_first.shape = shape;
  of_first.packed = packed;
  of_first.ranges = ranges;
  Launch how;
  how.grid = Grid{ranges.of_first, count};
  how.block = dim3(device::kMlpThreads);
  how.dynamic_shared = sizeof(FirstMemory<kIn>);
  launch(queue, "mlp_backward: first layer", mlp_backward_first<kIn>, how, of_first);

  how.grid = Grid{kMlpWidth / kColumns, ranges.of_second, count};
  how.dynamic_shared = sizeof(SecondMemory);
  launch(queue, "mlp_backward: second layer", mlp_backward_second, how,
         SecondArguments{shape, ranges});

  sums.in = kIn;
  sums.ranges = ranges;
  launch(queue, "mlp_backward: gradients", mlp_backward_sums,
         Launch{{kMlpWidth, count}, dim3(kMlpWidth)}, sums);
}

static_assert(sizeof(FirstMemory<64>) <= 227 * 1024 && sizeof(SumsArguments) <= 4096);

}  // namespace

void run(CudaQueue& queue, const MlpBackward<float>& call) {
  call.dims.in == 64 ? backward<64>(queue, call) : backward<32>(queue, call);
}

}  // namespace sidechannel::kernels
