#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// A one-dimensional convolution (cross-correlation), channels last:
//
//   y[n, l, co] = b[co] + sum over t < kernel_size, ci < channels_in of
//                 x[n, l * stride + t - padding, ci] * w[t, ci, co]
//
// with zeros outside of x.
struct Conv1dDims {
  std::int64_t batch;
  std::int64_t length;
  std::int64_t channels_in;
  std::int64_t channels_out;
  std::int64_t kernel_size;
  std::int64_t padding;  // 0 <= padding < kernel_size
  std::int64_t stride = 1;

  std::int64_t length_out() const {
    const std::int64_t room = length + 2 * padding - kernel_size;
    return stride == 1 ? room + 1 : (room + stride) / stride;  // room / stride + 1, rounded down
  }
};

template <class T>
struct Conv1dForward {
  Conv1dDims dims;
  const T* x = nullptr;  // [batch, length, channels_in]
  const T* w = nullptr;  // [kernel_size, channels_in, channels_out]
  const T* b = nullptr;  // [channels_out]; null for none, as where y is added to
  T* y = nullptr;        // [batch, length_out(), channels_out]
  Write write = Write::kOverwrite;
};
template <class T>
void run(CpuQueue& queue, const Conv1dForward<T>& call);
// `variant` names a kernel of cuda/conv1d/variants.h (std::logic_error where it cannot compute
// this); null takes the best. So too below.
void run(CudaQueue& queue, const Conv1dForward<float>& call, const char* variant = nullptr);

// dx[n, q, ci] = b[ci] + sum over t, co of dy[n, (q + padding - t) / stride, co] * w[t, ci, co]
//
// over the t for which that is a whole number. The gradient has no b; a transposed convolution is
// this with one.
template <class T>
struct Conv1dBackwardInput {
  Conv1dDims dims;
  const T* dy = nullptr;  // as y
  const T* w = nullptr;
  const T* b = nullptr;  // [channels_in]; null for none, as where dx is added to
  GradOut<T> dx = {};
};
template <class T>
void run(CpuQueue& queue, const Conv1dBackwardInput<T>& call);
void run(CudaQueue& queue, const Conv1dBackwardInput<float>& call, const char* variant = nullptr);

// dw[t, ci, co] = sum over n, l of x[n, l * stride + t - padding, ci] * dy[n, l, co];
// db[co] = sum of dy.
template <class T>
struct Conv1dBackwardParams {
  Conv1dDims dims;
  const T* x = nullptr;
  const T* dy = nullptr;  // as y
  GradOut<T> dw = {};
  GradOut<T> db = {};
};
template <class T>
void run(CpuQueue& queue, const Conv1dBackwardParams<T>& call);
void run(CudaQueue& queue, const Conv1dBackwardParams<float>& call, const char* variant = nullptr);

}  // namespace sidechannel::kernels
