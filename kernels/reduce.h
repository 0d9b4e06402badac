#pragma once

#include <cstdint>

#include "kernels/queue.h"

namespace sidechannel::kernels {

// *result = sum of x[i]^2, in double. Not finite when any x[i] is not. `result` lies in the queue's
// memory.
template <class T>
void sum_of_squares(CpuQueue& queue, std::int64_t size, const T* x, double* result);
void sum_of_squares(CudaQueue& queue, std::int64_t size, const float* x, double* result);

}  // namespace sidechannel::kernels
