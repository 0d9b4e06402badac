#pragma once

// Sums over the threads of a warp and of a block, always in the same order: the same bits in every
// run, and in every thread that gets the result.

#include <cuda_runtime.h>

#include "kernels/cuda/device/shared.cuh"

namespace sidechannel::kernels::device {

constexpr unsigned kWarpSize = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// Place of the thread in its block, of one or two dimensions, counted along x, then y: neighbours
// share a warp.
__device__ __forceinline__ unsigned thread_rank() {
  return threadIdx.x + blockDim.x * threadIdx.y;
}
__device__ __forceinline__ unsigned lane_id() {
  return thread_rank() % kWarpSize;
}
__device__ __forceinline__ unsigned warp_id() {
  return thread_rank() / kWarpSize;
}
__device__ __forceinline__ unsigned block_threads() {
  return blockDim.x * blockDim.y;
}

// Sum over the lanes of the warp; with kWidth, over each kWidth neighbouring lanes; with kStep,
// over the lanes among them that are kStep apart (lane % kStep stays what it was). Powers of two.
// Every lane of the warp takes part and gets its sum.
//
// Order: a tree whose first step adds the lanes kWidth / 2 apart. Each step adds the same two
// numbers in both of its lanes, so that all of them end with the same bits.
template <unsigned kWidth = kWarpSize, unsigned kStep = 1, class T>
__device__ __forceinline__ T warp_sum(T value) {
  static_assert(kWidth <= kWarpSize && (kWidth & (kWidth - 1)) == 0);
  static_assert(kStep >= 1 && kStep <= kWidth && (kStep & (kStep - 1)) == 0);
#pragma unroll
  for (unsigned distance = kWidth / 2; distance >= kStep; distance /= 2) {
    value += __shfl_xor_sync(kAllLanes, value, static_cast<int>(distance));
  }
  return value;
}

// Sum over the block, which has whole warps. Every thread takes part and gets the sum. Callers need
// no barrier before or between calls.
//
// Order: each warp's sum as above, then the warps' sums in the same tree.
template <class T>
__device__ __forceinline__ T block_sum(T value) {
  struct Partial {
    T of_warp[kWarpSize];
  };
  Partial& partial = static_shared<Partial>();
  value = warp_sum(value);
  if (lane_id() == 0) partial.of_warp[warp_id()] = value;
  __syncthreads();  // all sums are written before any is read
  value = lane_id() < block_threads() / kWarpSize ? partial.of_warp[lane_id()] : T(0);
  __syncthreads();  // all are read before the next call writes
  return warp_sum(value);
}

// For blocks of (kWarpSize, kWarps) threads: where the numbers of the lanes of one place in their
// warps are added up, for each place. Every thread takes part and gets its place's sum. Callers
// need no barrier before or between calls.
//
// Order: the warps one after the other.
template <int kWarps>
struct WarpSums {
  double of_warp[kWarps][kWarpSize];

  __device__ __forceinline__ double total(double mine) {
    of_warp[threadIdx.y][threadIdx.x] = mine;
    __syncthreads();  // every warp's numbers are written before they are added
    double sum = 0;
    for (const auto& warp : of_warp) sum += warp[threadIdx.x];
    __syncthreads();  // all are read before the next call writes
    return sum;
  }
};

}  // namespace sidechannel::kernels::device
