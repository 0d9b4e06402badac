#pragma once

// The sum over i < size of term(i), in double, or of several sets' term(set, i), each by itself; in
// two stages of fixed order: blocks take ranges of kSumRange elements and leave their sums in
// scratch memory, one more block adds those. One launch where one block is enough. Within a block
// thread t takes elements t, t + threads, ...; then the block's tree.

#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

namespace sidechannel::kernels {

constexpr std::int64_t kSumRange = 8192;  // a batch of each thread: every load is under way at once

// Grid: one block for each range of each set, which hands its sum to finish(block, sum) in one
// thread.
template <class Term, class Finish>
__global__ void sum_ranges(std::int64_t size, std::int64_t range, Term term, Finish finish) {
  device::after_earlier_launches();
  const std::int64_t first = blockIdx.x * range;
  const std::int64_t last = min(size, first + range);
  const auto term_at = [&](std::int64_t i) {
    if constexpr (std::is_invocable_v<const Term&, unsigned, std::int64_t>) {
      return term(blockIdx.y, i);
    } else {
      return term(i);
    }
  };
  constexpr int kBatch = 8;  // terms of a thread whose loads are under way at the same time
  double sum = 0;
  for (std::int64_t i = first + threadIdx.x; i < last; i += kBatch * blockDim.x) {
    double terms[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const std::int64_t at = i + k * blockDim.x;
      terms[k] = at < last ? term_at(at) : 0.0;
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) sum += terms[k];
  }
  sum = device::block_sum(sum);
  if (threadIdx.x == 0) finish(blockIdx.y * gridDim.x + blockIdx.x, sum);
}

struct StoreSum {
  double* sums;
  __device__ __forceinline__ void operator()(unsigned i, double sum) const { sums[i] = sum; }
};

struct LoadSum {
  const double* sums;
  std::int64_t ranges;  // of a set
  __device__ __forceinline__ double operator()(unsigned set, std::int64_t i) const {
    return sums[set * ranges + i];
  }
};

// finish(set, total) writes a result.
template <class Term, class Finish>
void blocked_sum(CudaQueue& queue, const char* operation, std::int64_t size, const Term& term,
                 const Finish& finish, std::int64_t sets = 1) {
  constexpr unsigned kThreads = 1024;
  const std::int64_t ranges = ceil_div(size, kSumRange);
  if (ranges <= 1) {
    launch(queue, operation, sum_ranges<Term, Finish>, Launch{{1, sets}, kThreads}, size, kSumRange,
           term, finish);
    return;
  }
  auto* sums =
      static_cast<double*>(queue.scratch(static_cast<std::size_t>(ranges * sets) * sizeof(double)));
  launch(queue, operation, sum_ranges<Term, StoreSum>, Launch{{ranges, sets}, kThreads}, size,
         kSumRange, term, StoreSum{sums});
  launch(queue, operation, sum_ranges<LoadSum, Finish>, Launch{{1, sets}, kThreads}, ranges, ranges,
         LoadSum{sums, ranges}, finish);
}

}  // namespace sidechannel::kernels
