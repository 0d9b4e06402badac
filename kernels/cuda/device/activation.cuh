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

// What the activation lets through of dy. A ReLU may be asked with what stands behind it, too.
__device__ __forceinline__ float activate_backward(Activation activation, float before, float dy) {
  return activation == Activation::kRelu && !(before > 0.0f) ? 0.0f : dy;
}

}  // namespace sidechannel::kernels::device
