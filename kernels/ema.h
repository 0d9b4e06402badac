#pragma once

#include <cstdint>

#include "kernels/queue.h"

namespace sidechannel::kernels {

// Exponential moving average, element by element:
//
//   average = decay * average + (1 - decay) * value
//
// Does nothing where `halted` is given and *halted is not 0 (AdamState::halted): the average of a
// training that has halted is that of the steps that were made.
template <class T>
struct EmaUpdate {
  double decay = 0;
  const std::int64_t* halted = nullptr;  // in the queue's memory
  std::int64_t size = 0;
  const T* value = nullptr;  // [size]
  T* average = nullptr;      // [size]
};
template <class T>
void run(CpuQueue& queue, const EmaUpdate<T>& call);
void run(CudaQueue& queue, const EmaUpdate<float>& call);

}  // namespace sidechannel::kernels
