#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// Mean squared error of each set: loss = mean over i < size of (y[i] - target[i % target_size])^2.
// A target of one sequence serves a whole batch of them, and all sets.
// The loss of no elements is 0.
struct MseDims {
  std::int64_t size;         // of a set
  std::int64_t target_size;  // divides size
  std::int64_t sets = 1;
};

template <class T>
struct MseForward {
  MseDims dims;
  const T* y = nullptr;       // [sets, size]
  const T* target = nullptr;  // [target_size]
  T* loss = nullptr;          // [sets]
};
template <class T>
void run(CpuQueue& queue, const MseForward<T>& call);
void run(CudaQueue& queue, const MseForward<float>& call);

// dy[i] = dloss * 2 / size * (y[i] - target[i % target_size])
template <class T>
struct MseBackward {
  MseDims dims;
  const T* y = nullptr;
  const T* target = nullptr;
  const T* dloss = nullptr;  // [sets]
  GradOut<T> dy = {};
};
template <class T>
void run(CpuQueue& queue, const MseBackward<T>& call);
void run(CudaQueue& queue, const MseBackward<float>& call);

}  // namespace sidechannel::kernels
