#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// A dense layer on rows: y = x w^T + b, then an optional ReLU.
// x [rows, in]; w [out, in], as PyTorch keeps it; b [out]; y [rows, out].
struct LinearDims {
  std::int64_t rows;
  std::int64_t in;
  std::int64_t out;
  bool relu;
};

template <class T>
void linear_forward(CpuQueue& queue, const LinearDims& dims, const T* x, const T* w, const T* b,
                    T* y);
void linear_forward(CudaQueue& queue, const LinearDims& dims, const float* x, const float* w,
                    const float* b, float* y);

// With g = dy where y > 0 (all of dy without ReLU): dx = g w, dw = g^T x, db = sum of g's rows.
template <class T>
void linear_backward(CpuQueue& queue, const LinearDims& dims, const T* x, const T* w, const T* y,
                     const T* dy, GradOut<T> dx, GradOut<T> dw, GradOut<T> db);
void linear_backward(CudaQueue& queue, const LinearDims& dims, const float* x, const float* w,
                     const float* y, const float* dy, GradOut<float> dx, GradOut<float> dw,
                     GradOut<float> db);

}  // namespace sidechannel::kernels
