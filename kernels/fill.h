#pragma once

#include <cstdint>

#include "kernels/queue.h"

namespace sidechannel::kernels {

// x[i] = value for i < size.
template <class T>
void fill(CpuQueue& queue, std::int64_t size, T value, T* x);
void fill(CudaQueue& queue, std::int64_t size, float value, float* x);
void fill(CudaQueue& queue, std::int64_t size, double value, double* x);

}  // namespace sidechannel::kernels
