#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// y = max(x, 0), element by element.
template <class T>
struct ReluForward {
  std::int64_t size = 0;
  const T* x = nullptr;
  T* y = nullptr;
};
template <class T>
void run(CpuQueue& queue, const ReluForward<T>& call);
void run(CudaQueue& queue, const ReluForward<float>& call);

// dx = dy where y > 0, else 0.
template <class T>
struct ReluBackward {
  std::int64_t size = 0;
  const T* y = nullptr;
  const T* dy = nullptr;
  GradOut<T> dx = {};
};
template <class T>
void run(CpuQueue& queue, const ReluBackward<T>& call);
void run(CudaQueue& queue, const ReluBackward<float>& call);

}  // namespace sidechannel::kernels
