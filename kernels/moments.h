#pragma once

#include <cstdint>

#include "kernels/queue.h"

namespace sidechannel::kernels {

// Streaming mean and sum of squared deviations, for each position over many samples, in double.
//
// Adds the `samples` rows of x [samples, length] to mean and m2 [length], which hold *count samples
// so far: the batch's own mean and m2 first (two passes), then the merge of Chan, Golub & LeVeque
// (1979). *count grows by `samples`. Everything lies in the queue's memory.
//
// Does nothing where `halted` is given and *halted is not 0 (AdamState::halted): the averages of a
// training that has halted are those of the steps that were made.
template <class T>
void moments_update(CpuQueue& queue, std::int64_t samples, std::int64_t length, const T* x,
                    const std::int64_t* halted, std::int64_t* count, double* mean, double* m2);
void moments_update(CudaQueue& queue, std::int64_t samples, std::int64_t length, const float* x,
                    const std::int64_t* halted, std::int64_t* count, double* mean, double* m2);

}  // namespace sidechannel::kernels
