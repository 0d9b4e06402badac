#pragma once

#include <cuda_runtime.h>

#include "kernels/activation.h"

namespace sidechannel::kernels::device {

// max(x, 0), where NaN stays NaN: fmaxf would turn it into 0, and hide that a training has failed.
__device__ __forceinline__ float relu(float x) {
  return x < 0.0f ? 0.0f : x;
}

__device__ __forceinline__ float activate(Activation activation, float x) {
  return activation == Activation::kRelu ? relu(x) : x;
}

}  // namespace sidechannel::kernels::device
