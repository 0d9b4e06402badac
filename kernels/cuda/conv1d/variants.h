#pragma once

// Which kernels conv1d has for a call, for tests that run every one of them and benchmarks that
// compare them. Programs let conv1d choose.

#include <string>
#include <vector>

#include "kernels/conv1d.h"
#include "kernels/cuda_queue.h"

namespace sidechannel::kernels {

// The names of all kernels that can compute a call of conv1d.h on such a device; first the one that
// conv1d chooses. Never empty. Of the call's buffers only the alignment counts.
template <class Call>
std::vector<std::string> variants_of(const CudaDeviceInfo& device, Precision precision,
                                     const Call& call);

}  // namespace sidechannel::kernels
