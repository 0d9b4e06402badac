#pragma once

// Kernels of the emulator's tests, by their launchers.

#include <string>

#include "kernels/cuda_queue.h"

namespace sidechannel::test {

using kernels::CudaQueue;

// Correct ones, each of which needs something of the emulator to work.
void fill(CudaQueue& queue, unsigned size, float value, float* x);
void add(CudaQueue& queue, unsigned size, const float* x, float* y);  // y += x
void reverse_in_block(CudaQueue& queue, unsigned threads, float* x);  // barrier
void block_sums(CudaQueue& queue, unsigned blocks, unsigned threads, const float* x, float* y);
void shuffles(CudaQueue& queue, unsigned* y);  // [4, 32]: what xor 5, up 3, down 7, from 9 bring
void ballots(CudaQueue& queue, unsigned* y);   // [64]: lanes whose number is a multiple of 3
void votes(CudaQueue& queue, unsigned threads, int* y);      // count, and, or
void tile_sums(CudaQueue& queue, const float* x, float* y);  // [64]: over tiles of 8
void matrix_product(CudaQueue& queue, const float* a, const float* b, float* d);  // mma, one warp
void copy_through_shared(CudaQueue& queue, unsigned size, const float* x, float* y);  // cp.async
void cluster_sums(CudaQueue& queue, unsigned clusters, unsigned blocks, const float* x, float* y);
void count_with_atomics(CudaQueue& queue, unsigned blocks, unsigned threads, int* count);
void places(CudaQueue& queue, unsigned* y);     // numbers in grid (2, 3, 2) and block (3, 2, 2)
void tree_in_warp(CudaQueue& queue, float* x);  // [64], __syncwarp between the steps
void dynamic_shared_of(CudaQueue& queue, std::size_t bytes, float* y);
int dynamic_shared_allowed();  // bytes that the kernel of this may have

// Those with one bug each, by their names in buggy_kernels.cu. x [256], of which the first 128 are
// written.
void run_buggy(CudaQueue& queue, const std::string& kernel, float* x);
void launch_with_host_pointer(CudaQueue& queue, float* host);
void launch_with_host_pointer_in_struct(CudaQueue& queue, float* x);
void launch_misconfigured(CudaQueue& queue, unsigned grid, unsigned block, std::size_t shared,
                          unsigned cluster, float* x);

}  // namespace sidechannel::test
