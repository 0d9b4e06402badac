#pragma once

#include <cuda_runtime.h>

namespace sidechannel::kernels::device {

// max(x, 0), where NaN stays NaN: fmaxf would turn it into 0, and hide that a training has failed.
__device__ __forceinline__ float relu(float x) {
  return x < 0.0f ? 0.0f : x;
}

}  // namespace sidechannel::kernels::device
