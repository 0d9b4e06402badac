#pragma once

// What all norms on the CPU are made of: rows of channels, sums over positions, statistics from
// sums, and the constants of a channel.

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/cpu/activation.h"
#include "kernels/cpu/simd.h"
#include "kernels/norm_act.h"

namespace sidechannel::kernels {

namespace hn = simd::hn;
using simd::kLanes;

// Replaces each channel's value by the total over its set.
inline void total_over_sets(const NormDims& dims, double* values, std::int64_t count) {
  if (dims.channels_per_set == 1) return;
  for (std::int64_t c = 0; c < count; c += dims.channels_per_set) {
    double total = 0;
    for (std::int64_t i = 0; i < dims.channels_per_set; ++i) total += values[c + i];
    std::fill_n(values + c, dims.channels_per_set, total);
  }
}

// kRow neighbouring vectors of channels, for all rows of a group: a walk through memory in its
// order.
template <int kRow, class D>
struct Row {
  using V = simd::Vec<D>;
  static constexpr std::int64_t lanes = kLanes<D>;
  V v[kRow];

  template <class T>
  static Row load(D d, const T* from) {
    Row row;
    row.each([&](int j) { row.v[j] = hn::LoadU(d, from + j * lanes); });
    return row;
  }
  static Row zero(D d) {
    Row row;
    row.each([&](int j) { row.v[j] = hn::Zero(d); });
    return row;
  }
  template <class T>
  void store(D d, T* to) const {
    each([&](int j) { hn::StoreU(v[j], d, to + j * lanes); });
  }
  void add(const Row& other) {
    each([&](int j) { v[j] = hn::Add(v[j], other.v[j]); });
  }
  // v += other.v, and what rounding left of it to rest (Knuth's two-sum).
  void add_exactly(const Row& other, Row& rest) {
    each([&](int j) {
      const V sum = hn::Add(v[j], other.v[j]);
      const V added = hn::Sub(sum, v[j]);
      const V left = hn::Add(hn::Sub(v[j], hn::Sub(sum, added)), hn::Sub(other.v[j], added));
      rest.v[j] = hn::Add(rest.v[j], left);
      v[j] = sum;
    });
  }
  template <class F>
  static HWY_INLINE void each(const F& f) {
#pragma GCC unroll 4
    for (int j = 0; j < kRow; ++j) f(j);
  }
};

// Two arrays of `count` in a thread's memory, for numbers of a task's channels.
template <class T>
std::array<T*, 2> two_arrays(simd::AlignedBuffer<T>& memory, std::int64_t count) {
  T* first = memory.get(static_cast<std::size_t>(2 * count));
  return {first, first + count};
}

// The rows of a group: their offsets, the last one excluded.
struct Extent {
  std::int64_t first, last;
  Extent(const NormDims& dims, std::int64_t group)
      : first(group * dims.rows() * dims.channels), last(first + dims.rows() * dims.channels) {}
};

// kCount sums over all positions of a group, for a row of channels: term(offset, sums) adds the
// terms of one position to sums[kCount]. A block of positions is summed in registers, even and odd
// ones apart, as one sum would wait for each addition to end; blocks are added up without loss. So
// no term passes more than kBlock / 2 + 1 roundings, whatever the length.
template <int kCount, int kRow, class D, class Term>
HWY_INLINE void sum_positions(D d, const NormDims& dims, std::int64_t group,
                              const std::array<double*, kCount>& to, const Term& term) {
  constexpr std::int64_t kBlock = 64;
  using T = hn::TFromD<D>;
  using R = Row<kRow, D>;
  using Rows = std::array<R, kCount>;
  Rows zero;
  zero.fill(R::zero(d));
  Rows total = zero, rest = zero;
  const Extent extent(dims, group);
  for (std::int64_t at = extent.first; at < extent.last;) {
    const std::int64_t end = std::min(at + kBlock * dims.channels, extent.last);
    Rows even = zero, odd = zero;
    for (; at + dims.channels < end; at += 2 * dims.channels) {
      term(at, even);
      term(at + dims.channels, odd);
    }
    if (at < end) {
      term(at, even);
      at += dims.channels;
    }
    for (std::size_t i = 0; i < kCount; ++i) {
      even[i].add(odd[i]);
      total[i].add_exactly(even[i], rest[i]);
    }
  }
  constexpr std::int64_t width = kRow * R::lanes;
  T sums[width], rests[width];
  for (std::size_t i = 0; i < kCount; ++i) {
    total[i].store(d, sums);
    rest[i].store(d, rests);
    for (std::int64_t j = 0; j < width; ++j) {
      to[i][j] = static_cast<double>(sums[j]) + static_cast<double>(rests[j]);
    }
  }
}

// Statistics of the set, from the first mean that stands in statistics.mean, and the sums over each
// channel's set of d and d^2.
template <class T>
void finish_statistics(const NormDims& dims, std::int64_t c0, std::int64_t c1,
                       const NormStatistics<T>& s, const double* sum, const double* squares) {
  const auto count = static_cast<double>(dims.set_size());
  simd::for_vectors<double>(c0, c1, [&](auto d, std::int64_t c) {
    const auto sum_d = hn::LoadU(d, sum + c - c0);
    const auto correction = hn::Div(sum_d, hn::Set(d, count));  // exact in a constant set
    const auto m2 = hn::NegMulAdd(correction, sum_d, hn::LoadU(d, squares + c - c0));
    auto variance = simd::at_least(hn::Mul(m2, hn::Set(d, 1 / count)), hn::Zero(d));
    const auto first = simd::load_double(d, s.mean + c);
    const auto whole = hn::Add(first, correction);
    if (dims.centred) {
      const auto near_zero = hn::Lt(hn::Mul(whole, whole), hn::Add(variance, variance));
      const auto mean = simd::store_rounded(d, hn::IfThenZeroElse(near_zero, whole), s.mean + c);
      simd::store_rounded(d, hn::Add(hn::Sub(first, mean), correction), s.mean_rest + c);
    } else {
      variance = simd::store_rounded(d, hn::MulAdd(whole, whole, variance), s.rstd + c);
      variance = hn::Add(variance, hn::Sub(variance, variance));  // NaN beyond T's range
      simd::store_rounded(d, hn::Zero(d), s.mean + c);
      simd::store_rounded(d, hn::Zero(d), s.mean_rest + c);
    }
    const auto root = hn::Sqrt(hn::Add(variance, hn::Set(d, dims.epsilon)));
    simd::store_rounded(d, hn::Div(hn::Set(d, 1.0), root), s.rstd + c);
  });
}

// The constants of a row of channels: what stands before the activation is
// (x - mean) * scale + shift. Forward and backward take it from here, so that they agree about a
// ReLU's mask.
template <int kRow, class D, class T>
struct RowConstants {
  using R = Row<kRow, D>;
  R mean, scale, shift;  // scale = rstd * gamma, shift = beta - mean_rest * scale

  // Call: a struct with dims, gamma and beta.
  template <class Call>
  RowConstants(D d, const Call& call, const NormStatistics<T>& s, std::int64_t c)
      : mean(R::load(d, s.mean + c)),
        scale(R::load(d, call.gamma + c)),
        shift(R::load(d, call.beta + c)) {
    const R rest = R::load(d, s.mean_rest + c), rstd = R::load(d, s.rstd + c);
    R::each([&](int j) {
      scale.v[j] = hn::Mul(rstd.v[j], scale.v[j]);
      shift.v[j] = hn::NegMulAdd(rest.v[j], scale.v[j], shift.v[j]);
    });
  }
  // x becomes x - mean; returns what stands before the activation.
  HWY_INLINE simd::Vec<D> centre(int j, simd::Vec<D>& x) const {
    x = hn::Sub(x, mean.v[j]);
    return hn::MulAdd(x, scale.v[j], shift.v[j]);
  }
  // The same; dy becomes what the activation lets through of it.
  HWY_INLINE void centre_and_activate(D d, Activation activation, int j, simd::Vec<D>& x,
                                      simd::Vec<D>& dy) const {
    dy = simd::activate_backward(d, activation, centre(j, x), dy);
  }
};

// for_vector_rows of channels [c0, c1), f(d, row, activation, c), with the activation a constant.
template <class T, class F>
void for_activated_rows(const NormDims& dims, std::int64_t c0, std::int64_t c1, const F& f) {
  simd::with_activation(dims.activation, [&](auto activation) {
    simd::for_vector_rows<T>(c0, c1,
                             [&](auto d, auto row, std::int64_t c) { f(d, row, activation, c); });
  });
}

// dx = rstd * (gamma * dy - a - x_hat * b), with a and b the means over the set of gamma * dy and
// gamma * dy * x_hat, by way of the mean and of the variance, of which these are the sums. As
// rstd * gamma * dy - shift - slope * (x - mean).
template <class T>
struct ShiftAndSlope {
  T shift, slope;
};
template <class T>
ShiftAndSlope<T> shift_and_slope(const NormBackward<T>& call, double rest, double rstd, double a,
                                 double b) {
  const auto count = static_cast<double>(call.dims.set_size());
  const double steep = call.through_variance ? rstd * rstd * b / count : 0;
  const double straight = call.through_mean && call.dims.centred ? rstd * a / count : 0;
  return {static_cast<T>(straight - rest * steep), static_cast<T>(steep)};
}

}  // namespace sidechannel::kernels
