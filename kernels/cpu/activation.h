#pragma once

// Activations on the CPU, a vector at a time, with selections of whole vectors: signs are random,
// and a branch on each would be mispredicted every other time.

#include <array>
#include <limits>

#include "kernels/activation.h"
#include "kernels/cpu/simd.h"

namespace sidechannel::kernels::simd {

// e^x within four roundings, 0 below what has T's full precision; for x up to 20. As normal.h's
// polynomials: from operations that give the same bits everywhere.
template <class D>
HWY_INLINE Vec<D> exp(D d, Vec<D> x) {
  using T = hn::TFromD<D>;
  constexpr bool kSingle = sizeof(T) == sizeof(float);
  constexpr std::size_t kDegree = kSingle ? 7 : 13;  // of e^r, whose next term is below a rounding
  constexpr T kLeast = kSingle ? T(-87) : T(-708);
  // x = n ln 2 + r with |r| <= ln 2 / 2; of ln 2 there is T's part, and what that leaves.
  constexpr T kLn2 = T(0.693147180559945309417232121458L);
  constexpr T kLn2Rest = T(0.693147180559945309417232121458L - static_cast<long double>(kLn2));
  const auto n = hn::Round(hn::Mul(x, hn::Set(d, T(1.44269504088896340736))));
  const auto r = hn::NegMulAdd(n, hn::Set(d, kLn2Rest), hn::NegMulAdd(n, hn::Set(d, kLn2), x));
  constexpr auto kCoefficients = [] {  // 1 / k!
    std::array<T, kDegree + 1> all = {1};
    long double value = 1;
    for (std::size_t k = 1; k <= kDegree; ++k) all[k] = T(value /= static_cast<long double>(k));
    return all;
  }();
  auto p = hn::Set(d, kCoefficients[kDegree]);
  for (std::size_t k = kDegree; k-- > 0;) p = hn::MulAdd(p, r, hn::Set(d, kCoefficients[k]));
  constexpr int kMantissa = std::numeric_limits<T>::digits - 1;
  constexpr int kBias = std::numeric_limits<T>::max_exponent - 1;
  const hn::RebindToSigned<D> di;
  const auto exponent = hn::Add(hn::ConvertTo(di, n), hn::Set(di, kBias));
  const auto power = hn::BitCast(d, hn::ShiftLeft<kMantissa>(exponent));
  return hn::IfThenElseZero(hn::Gt(x, hn::Set(d, kLeast)), hn::Mul(p, power));
}

// tanh(ln(1 + e^x)) = n / (n + 2) with n = e^x (e^x + 2), in which nothing cancels. Beyond 20 it is
// 1 in both types, and the powers stay in range.
template <class D>
struct Mish {
  Vec<D> x, e, n, denominator;

  HWY_INLINE Mish(D d, Vec<D> before) {
    const auto two = hn::Set(d, 2), most = hn::Set(d, 20);
    x = hn::IfThenElse(hn::Gt(before, most), most, before);  // NaN stays
    e = exp(d, x);
    n = hn::Mul(e, hn::Add(e, two));
    denominator = hn::Add(n, two);
  }
  HWY_INLINE Vec<D> quotient() const { return hn::Div(n, denominator); }
  HWY_INLINE Vec<D> slope(D d) const {
    const auto e1 = hn::Mul(e, hn::Add(e, hn::Set(d, 1)));
    const auto rise = hn::Div(hn::Mul(hn::Set(d, 4), e1), hn::Mul(denominator, denominator));
    return hn::MulAdd(x, rise, quotient());
  }
};

template <class D>
HWY_INLINE Vec<D> activate(D d, Activation activation, Vec<D> before) {
  if (activation == Activation::kMish) return hn::Mul(before, Mish<D>(d, before).quotient());
  return activation == Activation::kRelu ? at_least(before, hn::Zero(d)) : before;
}

// What the activation lets through of dy. A ReLU may be asked with what stands behind it, too.
template <class D>
HWY_INLINE Vec<D> activate_backward(D d, Activation activation, Vec<D> before, Vec<D> dy) {
  if (activation == Activation::kMish) return hn::Mul(dy, Mish<D>(d, before).slope(d));
  return activation == Activation::kRelu ? hn::IfThenElseZero(hn::Gt(before, hn::Zero(d)), dy) : dy;
}

// Calls f with the activation as a constant: its loops hold no other's code.
template <class F>
void with_activation(Activation activation, F&& f) {
  using enum Activation;
  switch (activation) {
    case kNone:
      return f(std::integral_constant<Activation, kNone>());
    case kRelu:
      return f(std::integral_constant<Activation, kRelu>());
    case kMish:
      return f(std::integral_constant<Activation, kMish>());
  }
}

}  // namespace sidechannel::kernels::simd
