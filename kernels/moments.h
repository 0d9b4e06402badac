#pragma once

#include <cstdint>

#include "kernels/queue.h"

namespace sidechannel::kernels {

// Streaming mean and sum of squared deviations, for each position over many samples, in double.
//
// Adds the `samples` rows of x [samples, length] to mean and m2 [length], which hold `count`
// samples so far: the batch's own mean and m2 first (two passes), then the merge of Chan, Golub &
// LeVeque (1979).
template <class T>
void moments_update(CpuQueue& queue, std::int64_t samples, std::int64_t length, const T* x,
                    std::int64_t count, double* mean, double* m2);

}  // namespace sidechannel::kernels
