#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// One to three tensors, mixed with weights of each sample; what is held stays out of it:
//
//   y[n, i] = hold[n, i]                         where held[i] != 0
//             sum over j of w[j][n] x[j][n, i]   elsewhere, from the first term on
//
// What stands in x where y is held, and in hold where it is not, does not matter, NaN or not.
constexpr int kMostTerms = 3;
struct WeightedSumDims {
  std::int64_t batch;
  std::int64_t size;  // of a sample
  int terms;          // 1 to kMostTerms
};

template <class T>
struct WeightedSumForward {
  WeightedSumDims dims;
  const T* w[kMostTerms] = {};  // [batch] each
  const T* x[kMostTerms] = {};  // [batch, size] each
  const T* held = nullptr;      // [size]; null where nothing is
  const T* hold = nullptr;      // as x
  T* y = nullptr;               // as x
};
template <class T>
void run(CpuQueue& queue, const WeightedSumForward<T>& call);
void run(CudaQueue& queue, const WeightedSumForward<float>& call);

// dx[j][n, i] = w[j][n] dy[n, i] where held[i] is 0;  dhold[n, i] = dy[n, i] where it is not; zeros
// elsewhere.
template <class T>
struct WeightedSumBackward {
  WeightedSumDims dims;
  const T* w[kMostTerms] = {};
  const T* held = nullptr;
  const T* dy = nullptr;
  GradOut<T> dx[kMostTerms] = {};
  GradOut<T> dhold = {};
};
template <class T>
void run(CpuQueue& queue, const WeightedSumBackward<T>& call);
void run(CudaQueue& queue, const WeightedSumBackward<float>& call);

}  // namespace sidechannel::kernels
