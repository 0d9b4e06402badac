#pragma once

// Which kernels the rows of layers in conv_norm_act have, as conv1d/variants.h tells of conv1d: for
// tests that run every one of them and benchmarks that compare them. Programs let it choose.

#include <string>
#include <vector>

#include "kernels/conv_norm_act.h"
#include "kernels/cuda_queue.h"

namespace sidechannel::kernels {

// Names; first the one that is chosen. Empty where layers are not computed so.
std::vector<std::string> variants_of(const CudaDeviceInfo& device, Precision precision,
                                     const ConvNormActForward<float>& call);
std::vector<std::string> variants_of(const CudaDeviceInfo& device, Precision precision,
                                     const ConvNormActBackward<float>& call);

}  // namespace sidechannel::kernels
