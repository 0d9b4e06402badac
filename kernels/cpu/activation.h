#pragma once

// Activations on the CPU, a vector at a time, with selections of whole vectors: signs are random,
// and a branch on each would be mispredicted every other time.

#include "kernels/activation.h"
#include "kernels/cpu/simd.h"

namespace sidechannel::kernels::simd {

template <class D>
HWY_INLINE Vec<D> activate(D d, Activation activation, Vec<D> before) {
  return activation == Activation::kRelu ? at_least(before, hn::Zero(d)) : before;
}

// What the activation lets through of dy. A ReLU may be asked with what stands behind it, too.
template <class D>
HWY_INLINE Vec<D> activate_backward(D d, Activation activation, Vec<D> before, Vec<D> dy) {
  return activation == Activation::kRelu ? hn::IfThenElseZero(hn::Gt(before, hn::Zero(d)), dy) : dy;
}

}  // namespace sidechannel::kernels::simd
