#pragma once

// Activations in f64, straight from their definitions, and what they make of errors.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/activation.h"

namespace sidechannel::harness {

struct ActivationAt {
  double value, slope;
  // The most that the value and the slope change by where x does by one, anywhere.
  double steepest = 1, bend = 0;
  // The roundings in both, beside that of x, and the magnitudes that they are relative to: the
  // terms' absolute values.
  std::int64_t roundings = 0;
  double slope_magnitude = 1;

  // The magnitude of slope * dy, where x is itself off by roundings of `terms`.
  double through(double dy, double terms = 0) const {
    return std::abs(dy) * (slope_magnitude + bend * terms);
  }
};

inline ActivationAt activation_at(kernels::Activation activation, double x) {
  using enum kernels::Activation;
  switch (activation) {
    case kNone:
      return {.value = x, .slope = 1};
    case kRelu: {  // of an x that errors do not carry across the kink
      const double slope = x > 0 ? 1 : 0;
      return {.value = std::max(x, 0.0), .slope = slope, .slope_magnitude = slope};
    }
    case kMish:
      break;
  }
  // With q = tanh(ln(1 + e^x)) and s = 1 / (1 + e^-x): x q, q + x (1 - q^2) s. The slope is at most
  // 1.0885 and the bend 0.6443 (at 1.49 and -0.09). Counted from e, which is within four: n is
  // within 10, n / (n + 2) within 12, the value 13, the slope 40.
  const double q = std::tanh(std::log1p(std::exp(x)));
  const double rise = x * (1 - q * q) / (1 + std::exp(-x));
  return {.value = x * q,
          .slope = q + rise,
          .steepest = 1.09,
          .bend = 0.65,
          .roundings = 40,
          .slope_magnitude = q + std::abs(rise)};
}

}  // namespace sidechannel::harness
