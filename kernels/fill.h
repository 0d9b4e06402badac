#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// x[i] = value for i < size.
template <class T>
void fill(CpuQueue& queue, std::int64_t size, T value, T* x);
void fill(CudaQueue& queue, std::int64_t size, float value, float* x);
void fill(CudaQueue& queue, std::int64_t size, double value, double* x);

// What sums without terms make of their outputs i < size: 0, or nothing where they are
// added to what stands there.
template <class Queue, class T, class... More>
void add_nothing(Queue& queue, std::int64_t size, GradOut<T> out, GradOut<More>... more) {
  if (out.data && out.write == Write::kOverwrite) fill(queue, size, T(0), out.data);
  if constexpr (sizeof...(more) > 0) add_nothing(queue, size, more...);
}

}  // namespace sidechannel::kernels
