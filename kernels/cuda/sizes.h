#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>

#include "kernels/cuda_queue.h"

namespace sidechannel::kernels {

// How many `b` hold `a`; for numbers that are not negative.
template <class A, class B>
constexpr std::common_type_t<A, B> ceil_div(A a, B b) {
  return a / b + (a % b != 0 ? 1 : 0);
}

// A number that a kernel counts to in 32 bits: registers are 32 bits wide, and no layer of any
// network comes near. CudaError where it does not fit.
inline int narrow(std::int64_t value) {
  if (value < 0 || value > std::numeric_limits<int>::max()) {
    throw CudaError("CUDA: " + std::to_string(value) +
                    " positions, channels or taps are more than kernels count (2147483647)");
  }
  return static_cast<int>(value);
}

}  // namespace sidechannel::kernels
