#pragma once

#include <cstdint>

#include "kernels/queue.h"
#include "kernels/view.h"

namespace sidechannel::kernels {

// Streaming mean and sum of squared deviations, for each position over many samples, in double.
//
// Adds the rows of x to mean and m2, which hold *count samples so far: the batch's own mean and m2
// first (two passes), then the merge of Chan, Golub & LeVeque (1979). *count grows by `samples`.
// Everything lies in the queue's memory.
//
// Does nothing where `halted` is given and *halted is not 0 (AdamState::halted): the averages of a
// training that has halted are those of the steps that were made.
template <class T>
struct MomentsUpdate {
  std::int64_t samples = 0;
  std::int64_t length = 0;
  const T* x = nullptr;  // [samples, length]
  const std::int64_t* halted = nullptr;
  std::int64_t* count = nullptr;
  double* mean = nullptr;  // [length]
  double* m2 = nullptr;    // [length]
};
template <class T>
void run(CpuQueue& queue, const MomentsUpdate<T>& call);
void run(CudaQueue& queue, const MomentsUpdate<float>& call);
// Of several streams, to which as many samples of one length are added.
template <class T>
void run(CpuQueue& queue, View<MomentsUpdate<T>> calls);
void run(CudaQueue& queue, View<MomentsUpdate<float>> calls);

}  // namespace sidechannel::kernels
