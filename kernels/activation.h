#pragma once

namespace sidechannel::kernels {

// What a layer ends with, element by element. To add one: a name here, its value and its gradient
// in cpu/activation.h and cuda/device/activation.cuh, and both in tests/harness/activation.h.
enum class Activation : unsigned char {
  kNone,
  kRelu,  // max(x, 0)
  kMish,  // x tanh(ln(1 + e^x)) (Misra 2019)
};

// Whether the gradient can be told from y alone, so that what stands before y need not be kept.
constexpr bool output_tells_gradient(Activation activation) {
  return activation != Activation::kMish;
}

}  // namespace sidechannel::kernels
