#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// Rows side by side, those of a first: y[r] = (a[r], b[r]).
struct ConcatDims {
  std::int64_t rows;
  std::int64_t channels_a;
  std::int64_t channels_b;

  SC_HOST_DEVICE std::int64_t channels() const { return channels_a + channels_b; }
};

template <class T>
struct ConcatForward {
  ConcatDims dims;
  const T* a = nullptr;  // [rows, channels_a]
  const T* b = nullptr;  // [rows, channels_b]
  T* y = nullptr;        // [rows, channels()]
};
template <class T>
void run(CpuQueue& queue, const ConcatForward<T>& call);
void run(CudaQueue& queue, const ConcatForward<float>& call);

// (da[r], db[r]) = dy[r]
template <class T>
struct ConcatBackward {
  ConcatDims dims;
  const T* dy = nullptr;  // as y
  GradOut<T> da = {};
  GradOut<T> db = {};
};
template <class T>
void run(CpuQueue& queue, const ConcatBackward<T>& call);
void run(CudaQueue& queue, const ConcatBackward<float>& call);

}  // namespace sidechannel::kernels
