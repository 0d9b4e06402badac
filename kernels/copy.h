#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// y = x or y += x, element by element.
template <class T>
void copy(CpuQueue& queue, std::int64_t size, const T* x, GradOut<T> y);
void copy(CudaQueue& queue, std::int64_t size, const float* x, GradOut<float> y);

}  // namespace sidechannel::kernels
