#pragma once

#include <cuda_runtime.h>

#include "kernels/activation.h"

namespace sidechannel::kernels::device {

// tanh(ln(1 + e^x)) = n / (n + 2) with n = e^x (e^x + 2), in which nothing cancels. Beyond 20 it is
// 1 in fp32, and the powers stay in range.
struct Mish {
  float x, e, n;

  __device__ __forceinline__ explicit Mish(float before)
      : x(before > 20.0f ? 20.0f : before), e(expf(x)), n(e * (e + 2.0f)) {}
  __device__ __forceinline__ float quotient() const { return n / (n + 2.0f); }
  __device__ __forceinline__ float slope() const {
    const float rise = 4.0f * (e * (e + 1.0f)) / ((n + 2.0f) * (n + 2.0f));
    return fmaf(x, rise, quotient());
  }
};

// NaN stays NaN; fmaxf would turn it into 0, and hide that a training has failed.
__device__ __forceinline__ float activate(Activation activation, float x) {
  if (activation == Activation::kMish) return x * Mish(x).quotient();
  return activation == Activation::kRelu && x < 0.0f ? 0.0f : x;
}

// What the activation lets through of dy. A ReLU may be asked with what stands behind it, too.
__device__ __forceinline__ float activate_backward(Activation activation, float before, float dy) {
  if (activation == Activation::kMish) return dy * Mish(before).slope();
  return activation == Activation::kRelu && !(before > 0.0f) ? 0.0f : dy;
}

}  // namespace sidechannel::kernels::device
