#pragma once

#include <cstdint>

#include "kernels/activation.h"
#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// A dense layer on rows: y = activation(x w^T + b), of an activation with output_tells_gradient.
struct LinearDims {
  std::int64_t rows;
  std::int64_t in;
  std::int64_t out;
  Activation activation;
};

template <class T>
struct LinearForward {
  LinearDims dims;
  const T* x = nullptr;  // [rows, in]
  const T* w = nullptr;  // [out, in], as PyTorch keeps it
  const T* b = nullptr;  // [out]
  T* y = nullptr;        // [rows, out]
};
template <class T>
void run(CpuQueue& queue, const LinearForward<T>& call);
void run(CudaQueue& queue, const LinearForward<float>& call);

// With g = dy where y > 0 (all of dy without ReLU): dx = g w, dw = g^T x, db = sum of g's rows.
template <class T>
struct LinearBackward {
  LinearDims dims;
  const T* x = nullptr;
  const T* w = nullptr;
  const T* y = nullptr;
  const T* dy = nullptr;
  GradOut<T> dx = {};
  GradOut<T> dw = {};
  GradOut<T> db = {};
};
template <class T>
void run(CpuQueue& queue, const LinearBackward<T>& call);
void run(CudaQueue& queue, const LinearBackward<float>& call);

}  // namespace sidechannel::kernels
