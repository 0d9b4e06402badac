#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// y = max(x, 0), element by element.
template <class T>
void relu_forward(CpuQueue& queue, std::int64_t size, const T* x, T* y);
void relu_forward(CudaQueue& queue, std::int64_t size, const float* x, float* y);

// dx = dy where y > 0, else 0.
template <class T>
void relu_backward(CpuQueue& queue, std::int64_t size, const T* y, const T* dy, GradOut<T> dx);
void relu_backward(CudaQueue& queue, std::int64_t size, const float* y, const float* dy,
                   GradOut<float> dx);

}  // namespace sidechannel::kernels
