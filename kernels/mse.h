#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// Mean squared error: loss = mean over i < size of (y[i] - target[i % target_size])^2.
// A target of one sequence serves a whole batch of them.
// The loss of no elements is 0.
struct MseDims {
  std::int64_t size;
  std::int64_t target_size;  // divides size
};

template <class T>
void mse_forward(CpuQueue& queue, const MseDims& dims, const T* y, const T* target, T* loss);
void mse_forward(CudaQueue& queue, const MseDims& dims, const float* y, const float* target,
                 float* loss);

// dy[i] = dloss * 2 / size * (y[i] - target[i % target_size]); dloss is one number.
template <class T>
void mse_backward(CpuQueue& queue, const MseDims& dims, const T* y, const T* target, const T* dloss,
                  GradOut<T> dy);
void mse_backward(CudaQueue& queue, const MseDims& dims, const float* y, const float* target,
                  const float* dloss, GradOut<float> dy);

}  // namespace sidechannel::kernels
