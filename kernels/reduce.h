#pragma once

#include <cstdint>

#include "kernels/queue.h"

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

}  // namespace sidechannel::kernels
