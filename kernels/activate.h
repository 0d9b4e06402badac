#pragma once

#include <cstdint>

#include "kernels/activation.h"
#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// y = activation(x), element by element.
template <class T>
struct ActivateForward {
  std::int64_t size = 0;
  Activation activation = Activation::kRelu;
  const T* x = nullptr;
  T* y = nullptr;
};
template <class T>
void run(CpuQueue& queue, const ActivateForward<T>& call);
void run(CudaQueue& queue, const ActivateForward<float>& call);

// dx = activation'(x) dy.
template <class T>
struct ActivateBackward {
  std::int64_t size = 0;
  Activation activation = Activation::kRelu;
  const T* kept = nullptr;  // x; or y, where output_tells_gradient
  const T* dy = nullptr;
  GradOut<T> dx = {};
};
template <class T>
void run(CpuQueue& queue, const ActivateBackward<T>& call);
void run(CudaQueue& queue, const ActivateBackward<float>& call);

}  // namespace sidechannel::kernels
