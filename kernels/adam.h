#pragma once

#include <cstdint>

#include "kernels/queue.h"

namespace sidechannel::kernels {

// One update of Adam (Kingma & Ba 2015, Algorithm 1), in PyTorch's arrangement:
//
//   m = beta1 * m + (1 - beta1) * g        v = beta2 * v + (1 - beta2) * g^2
//   p = p - learning_rate / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + epsilon)
struct AdamStep {
  double learning_rate;
  double beta1;
  double beta2;
  double epsilon;
  std::int64_t step;  // counts from 1
};

// p, m, v, g [size]: all parameters of a model in one flat buffer, in one pass.
template <class T>
void adam_update(CpuQueue& queue, const AdamStep& adam, std::int64_t size, const T* g, T* p, T* m,
                 T* v);

}  // namespace sidechannel::kernels
