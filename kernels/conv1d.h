#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// A one-dimensional convolution (cross-correlation) of stride 1, channels last:
//
//   y[n, l, co] = b[co] + sum over t < kernel_size, ci < channels_in of
//                 x[n, l + t - padding, ci] * w[t, ci, co]
//
// x [batch, length, channels_in], zero outside; w [kernel_size, channels_in, channels_out];
// b [channels_out]; y [batch, length_out(), channels_out].
struct Conv1dDims {
  std::int64_t batch;
  std::int64_t length;
  std::int64_t channels_in;
  std::int64_t channels_out;
  std::int64_t kernel_size;
  std::int64_t padding;  // 0 <= padding < kernel_size

  std::int64_t length_out() const { return length + 2 * padding - kernel_size + 1; }
};

template <class T>
void conv1d_forward(CpuQueue& queue, const Conv1dDims& dims, const T* x, const T* w, const T* b,
                    T* y);
void conv1d_forward(CudaQueue& queue, const Conv1dDims& dims, const float* x, const float* w,
                    const float* b, float* y);

// dx[n, l, ci] = sum over t, co of dy[n, l + padding - t, co] * w[t, ci, co]
template <class T>
void conv1d_backward_input(CpuQueue& queue, const Conv1dDims& dims, const T* dy, const T* w,
                           GradOut<T> dx);
void conv1d_backward_input(CudaQueue& queue, const Conv1dDims& dims, const float* dy,
                           const float* w, GradOut<float> dx);

// dw[t, ci, co] = sum over n, l of x[n, l + t - padding, ci] * dy[n, l, co];  db[co] = sum of dy.
template <class T>
void conv1d_backward_params(CpuQueue& queue, const Conv1dDims& dims, const T* x, const T* dy,
                            GradOut<T> dw, GradOut<T> db);
void conv1d_backward_params(CudaQueue& queue, const Conv1dDims& dims, const float* x,
                            const float* dy, GradOut<float> dw, GradOut<float> db);

}  // namespace sidechannel::kernels
