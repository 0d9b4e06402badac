#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>

#include "kernels.h"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/launch.h"

namespace sidechannel::test {
namespace {

namespace cg = cooperative_groups;
using kernels::launch;
using kernels::Launch;
using kernels::device::block_sum;
using kernels::device::dynamic_shared;
using kernels::device::kAllLanes;
using kernels::device::static_shared;

__global__ void fill_kernel(unsigned size, float value, float* x) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) x[i] = value;
}

__global__ void add_kernel(unsigned size, const float* x, float* y) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) y[i] += x[i];
}

__global__ void reverse_kernel(float* x) {
  struct Values {
    float v[1024];
  };
  Values& values = static_shared<Values>();
  values.v[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = values.v[blockDim.x - 1 - threadIdx.x];
}

__global__ void block_sum_kernel(const float* x, float* y) {
  const float sum = block_sum(x[blockIdx.x * blockDim.x + threadIdx.x]);
  if (threadIdx.x == blockDim.x - 1) y[blockIdx.x] = sum;
}

__global__ void shuffle_kernel(unsigned* y) {
  const unsigned lane = threadIdx.x;
  y[lane] = __shfl_xor_sync(kAllLanes, lane, 5);
  y[32 + lane] = __shfl_up_sync(kAllLanes, lane, 3);
  y[64 + lane] = __shfl_down_sync(kAllLanes, lane, 7, 16);
  y[96 + lane] = __shfl_sync(kAllLanes, lane, 9);
}

__global__ void ballot_kernel(unsigned* y) {
  y[threadIdx.x] = __ballot_sync(kAllLanes, static_cast<int>(threadIdx.x % 3 == 0));
}

__global__ void vote_kernel(int* y) {
  const int first = static_cast<int>(threadIdx.x == 0);
  const int count = __syncthreads_count(first ^ 1);
  const int all = __syncthreads_and(first);
  const int any = __syncthreads_or(first);
  if (threadIdx.x == 0) {
    y[0] = count;
    y[1] = all;
    y[2] = any;
  }
}

__global__ void tile_kernel(const float* x, float* y) {
  const auto tile = cg::tiled_partition<8>(cg::this_thread_block());
  y[threadIdx.x] = cg::reduce(tile, x[threadIdx.x], cg::plus<float>());
}

// a [16, 8] and b [8, 8] row by row.
__global__ void product_kernel(const float* a, const float* b, float* d) {
  const unsigned g = threadIdx.x / 4;
  const unsigned t = threadIdx.x % 4;
  const auto load = [](const float* m, unsigned row, unsigned column) {
    return emu::cvt_rna_tf32(m[row * 8 + column]);
  };
  const std::uint32_t fragment_a[4] = {load(a, g, t), load(a, g + 8, t), load(a, g, t + 4),
                                       load(a, g + 8, t + 4)};
  const std::uint32_t fragment_b[2] = {load(b, t, g), load(b, t + 4, g)};
  float sum[4] = {};
  emu::mma_m16n8k8_tf32(sum, fragment_a, fragment_b);
  d[g * 8 + 2 * t] = sum[0];
  d[g * 8 + 2 * t + 1] = sum[1];
  d[(g + 8) * 8 + 2 * t] = sum[2];
  d[(g + 8) * 8 + 2 * t + 1] = sum[3];
}

// Two stages of 32 values: the second is on its way while the first is written out.
__global__ void copy_kernel(unsigned size, const float* x, float* y) {
  float* const stages = dynamic_shared<float>();
  const unsigned t = threadIdx.x;
  const unsigned rounds = (size + 31) / 32;
  const auto stage = [&](unsigned round) {
    const unsigned i = round * 32 + t;
    const unsigned bytes = i < size ? 4 : 0;
    emu::cp_async(stages + round % 2 * 32 + t, i < size ? x + i : x, 4, bytes);
    emu::cp_async_commit();
  };
  stage(0);
  for (unsigned round = 0; round < rounds; ++round) {
    stage(round + 1);
    emu::cp_async_wait(1);
    __syncthreads();
    const unsigned from = 31 - t;  // another thread's value
    const unsigned i = round * 32 + from;
    if (i < size) y[i] = stages[round % 2 * 32 + from];
    __syncthreads();
  }
  emu::cp_async_wait(0);
}

// Sums over the values of a cluster's blocks, gathered from their shared memory.
__global__ void cluster_kernel(const float* x, float* y) {
  struct Part {
    float sum;
  };
  Part& part = static_shared<Part>();
  const cg::cluster_group cluster = cg::this_cluster();
  const float sum = block_sum(x[blockIdx.x * blockDim.x + threadIdx.x]);
  if (threadIdx.x == 0) part.sum = sum;
  cluster.sync();
  float total = 0;
  for (unsigned rank = 0; rank < cluster.num_blocks(); ++rank) {
    total += *cluster.map_shared_rank(&part.sum, rank);
  }
  cluster.sync();  // nobody leaves while its part is being read
  if (threadIdx.x == 0) y[blockIdx.x] = total;
}

__global__ void atomic_kernel(int* count) {
  atomicAdd(count, 1);
}

__global__ void place_kernel(unsigned* y) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  y[block * 12 + thread] = 100 * block + thread;
}

__global__ void tree_kernel(float* x) {
  struct Values {
    float v[64];
  };
  Values& values = static_shared<Values>();
  const unsigned t = threadIdx.x;
  values.v[t] = x[t];
  __syncthreads();
  if (t < 32) {
    for (unsigned distance = 32; distance > 0; distance /= 2) {
      const float other = values.v[t + distance];
      __syncwarp();
      values.v[t] += other;
      __syncwarp();
    }
  }
  __syncthreads();
  x[t] = values.v[0];
}

__global__ void last_float_kernel(std::size_t bytes, float* y) {
  float* const values = dynamic_shared<float>();
  values[bytes / sizeof(float) - 1] = 7.0f;
  y[0] = values[bytes / sizeof(float) - 1];
}

unsigned blocks_for(unsigned size) {
  return (size + 127) / 128;
}

}  // namespace

void fill(CudaQueue& queue, unsigned size, float value, float* x) {
  launch(queue, "fill", fill_kernel, {blocks_for(size), 128}, size, value, x);
}
void add(CudaQueue& queue, unsigned size, const float* x, float* y) {
  launch(queue, "add", add_kernel, {blocks_for(size), 128}, size, x, y);
}
void reverse_in_block(CudaQueue& queue, unsigned threads, float* x) {
  launch(queue, "reverse", reverse_kernel, {1, threads}, x);
}
void block_sums(CudaQueue& queue, unsigned blocks, unsigned threads, const float* x, float* y) {
  launch(queue, "block_sums", block_sum_kernel, {blocks, threads}, x, y);
}
void shuffles(CudaQueue& queue, unsigned* y) {
  launch(queue, "shuffles", shuffle_kernel, {1, 32}, y);
}
void ballots(CudaQueue& queue, unsigned* y) {
  launch(queue, "ballots", ballot_kernel, {1, 64}, y);
}
void votes(CudaQueue& queue, unsigned threads, int* y) {
  launch(queue, "votes", vote_kernel, {1, threads}, y);
}
void tile_sums(CudaQueue& queue, const float* x, float* y) {
  launch(queue, "tile_sums", tile_kernel, {1, 64}, x, y);
}
void matrix_product(CudaQueue& queue, const float* a, const float* b, float* d) {
  launch(queue, "matrix_product", product_kernel, {1, 32}, a, b, d);
}
void copy_through_shared(CudaQueue& queue, unsigned size, const float* x, float* y) {
  launch(queue, "copy_through_shared", copy_kernel, {1, 32, 2 * 32 * sizeof(float)}, size, x, y);
}
void cluster_sums(CudaQueue& queue, unsigned clusters, unsigned blocks, const float* x, float* y) {
  launch(queue, "cluster_sums", cluster_kernel, {clusters * blocks, 32, 0, blocks}, x, y);
}
void count_with_atomics(CudaQueue& queue, unsigned blocks, unsigned threads, int* count) {
  launch(queue, "count", atomic_kernel, {blocks, threads}, count);
}
void places(CudaQueue& queue, unsigned* y) {
  launch(queue, "places", place_kernel, {{2, 3, 2}, dim3(3, 2, 2)}, y);
}
void tree_in_warp(CudaQueue& queue, float* x) {
  launch(queue, "tree", tree_kernel, {1, 64}, x);
}
void dynamic_shared_of(CudaQueue& queue, std::size_t bytes, float* y) {
  launch(queue, "last_float", last_float_kernel, {1, 1, bytes}, bytes, y);
}
int dynamic_shared_allowed() {
  cudaFuncAttributes attributes = {};
  cudaFuncGetAttributes(&attributes, last_float_kernel);
  return attributes.maxDynamicSharedSizeBytes;
}

}  // namespace sidechannel::test
