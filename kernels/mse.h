#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// Mean squared error of each set, weighted where there are weights:
//
//   loss = mean over i < size of weights[i % weights_size] * (y[i] - target[i % target_size])^2
//
// A target of one sequence serves a whole batch of them, and all sets; and so do the weights.
// The loss of no elements is 0.
struct MseDims {
  std::int64_t size;         // of a set
  std::int64_t target_size;  // divides size
  std::int64_t sets = 1;
  std::int64_t weights_size = 1;  // divides size
};

template <class T>
struct MseForward {
  MseDims dims;
  const T* y = nullptr;        // [sets, size]
  const T* target = nullptr;   // [target_size]
  const T* weights = nullptr;  // [weights_size]; null: 1 each
  T* loss = nullptr;           // [sets]
};
template <class T>
void run(CpuQueue& queue, const MseForward<T>& call);
void run(CudaQueue& queue, const MseForward<float>& call);

// dy[i] = dloss * 2 / size * (y[i] - target[i % target_size]) * weights[i % weights_size]
template <class T>
struct MseBackward {
  MseDims dims;
  const T* y = nullptr;
  const T* target = nullptr;
  const T* weights = nullptr;
  const T* dloss = nullptr;  // [sets]
  GradOut<T> dy = {};
};
template <class T>
void run(CpuQueue& queue, const MseBackward<T>& call);
void run(CudaQueue& queue, const MseBackward<float>& call);

}  // namespace sidechannel::kernels
