#pragma once

#include <fmt/format.h>

#include <cstdint>

#include "engine/error.h"

namespace sidechannel {

// Sizes that are computed before a Shape can refuse them: a * b and a + b, or an Error that begins
// with `what` where they cannot be represented.
inline std::int64_t checked_product(const char* what, std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  SC_CHECK(!__builtin_mul_overflow(a, b, &product), "{}: {} x {} is beyond 2^63 - 1", what, a, b);
  return product;
}
inline std::int64_t checked_sum(const char* what, std::int64_t a, std::int64_t b) {
  std::int64_t sum = 0;
  SC_CHECK(!__builtin_add_overflow(a, b, &sum), "{}: {} + {} is beyond 2^63 - 1", what, a, b);
  return sum;
}

}  // namespace sidechannel
