#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// Sequences, and a row for each of them that is added at every position:
//
//   y[n, l, c] = a[n, l, c] + b[n, c]
//
// Tensors of one shape are rows of one position.
struct AddDims {
  std::int64_t batch;
  std::int64_t length;
  std::int64_t channels;

  std::int64_t size() const { return batch * length * channels; }
};

template <class T>
struct AddForward {
  AddDims dims;
  const T* a = nullptr;  // [batch, length, channels]
  const T* b = nullptr;  // [batch, channels]
  T* y = nullptr;        // as a
};
template <class T>
void run(CpuQueue& queue, const AddForward<T>& call);
void run(CudaQueue& queue, const AddForward<float>& call);

// da = dy;  db[n, c] = sum over l of dy[n, l, c], in double.
template <class T>
struct AddBackward {
  AddDims dims;
  const T* dy = nullptr;  // as a
  GradOut<T> da = {};
  GradOut<T> db = {};
};
template <class T>
void run(CpuQueue& queue, const AddBackward<T>& call);
void run(CudaQueue& queue, const AddBackward<float>& call);

}  // namespace sidechannel::kernels
