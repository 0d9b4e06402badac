#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/view.h"

namespace sidechannel::kernels {

// *result = sum of x[i]^2, in double. Not finite when any x[i] is not.
template <class T>
struct SumOfSquares {
  std::int64_t size = 0;
  const T* x = nullptr;      // [size]
  double* result = nullptr;  // in the queue's memory
};
template <class T>
void run(CpuQueue& queue, const SumOfSquares<T>& call);
void run(CudaQueue& queue, const SumOfSquares<float>& call);
// Of several x of one size; on CUDA not in the order of a call by itself.
template <class T>
void run(CpuQueue& queue, View<SumOfSquares<T>> calls);
void run(CudaQueue& queue, View<SumOfSquares<float>> calls);

}  // namespace sidechannel::kernels
