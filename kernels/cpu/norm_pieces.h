#pragma once

// Norms whose sets are of one position: each lies in memory in one piece, and there are as many as
// positions. Their sums run along the channels, in double at once, and nothing is kept for each
// channel on the way.

#include "kernels/cpu/norm_rows.h"

namespace sidechannel::kernels {

inline bool sets_are_pieces(const NormDims& dims) {
  return dims.rows() == 1;
}

// Sums in double over a piece of n values: term(d, i) gives the terms of the values from i on, as
// many as d has lanes. Eight stand side by side, whatever a vector's width.
template <std::size_t kCount, class Term>
HWY_INLINE std::array<double, kCount> sums_of_piece(std::int64_t n, const Term& term) {
  constexpr std::size_t kParts = 8;
  using D = simd::Capped<double, kParts>;
  constexpr auto lanes = static_cast<std::size_t>(kLanes<D>);
  const D d;
  simd::Vec<D> sums[kCount][kParts / lanes];
  for (auto& of_one : sums) {
    for (auto& sum : of_one) sum = hn::Zero(d);
  }
  std::int64_t i = 0;
  for (; i + static_cast<std::int64_t>(kParts) <= n; i += kParts) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kParts / lanes; ++v) {
      const auto terms = term(d, i + static_cast<std::int64_t>(v * lanes));
      for (std::size_t k = 0; k < kCount; ++k) sums[k][v] = hn::Add(sums[k][v], terms[k]);
    }
  }
  double parts[kCount][kParts];
  for (std::size_t k = 0; k < kCount; ++k) {
    for (std::size_t v = 0; v < kParts / lanes; ++v) {
      hn::StoreU(sums[k][v], d, parts[k] + v * lanes);
    }
  }
  const simd::Capped<double, 1> one;
  for (std::size_t j = 0; i < n; ++i, ++j) {
    const auto terms = term(one, i);
    for (std::size_t k = 0; k < kCount; ++k) parts[k][j] += hn::GetLane(terms[k]);
  }
  std::array<double, kCount> totals;
  for (std::size_t k = 0; k < kCount; ++k) {
    const double* p = parts[k];
    totals[k] = ((p[0] + p[4]) + (p[2] + p[6])) + ((p[1] + p[5]) + (p[3] + p[7]));
  }
  return totals;
}

// Of the one position of a group, x [channels].
template <class T>
void statistics_of_pieces(const NormDims& dims, const T* x, std::int64_t c0, std::int64_t c1,
                          const NormStatistics<T>& s) {
  const std::int64_t n = dims.channels_per_set;
  for (std::int64_t c = c0; c < c1; c += n) {
    const auto [sum] = sums_of_piece<1>(
        n, [&](auto d, std::int64_t i) { return std::array{simd::load_double(d, x + c + i)}; });
    const auto first = static_cast<T>(sum / static_cast<double>(n));
    const auto [of_d, squares] = sums_of_piece<2>(n, [&](auto d, std::int64_t i) {
      // Off by T's rounding, as the kernels compute it.
      const hn::Rebind<T, decltype(d)> narrow;
      const auto centred = hn::Sub(hn::LoadU(narrow, x + c + i), hn::Set(narrow, first));
      const auto wide = simd::widened(d, centred);
      return std::array{wide, hn::Mul(wide, wide)};
    });
    s.mean[c] = first;
    finish_statistics(dims, c, c + 1, s, &of_d, &squares);
    for (T* kept : {s.mean, s.mean_rest, s.rstd}) std::fill_n(kept + c + 1, n - 1, kept[c]);
  }
}

// The way back of the one position of a group. sum_dy and sum_dy_x_hat: dy, through the activation,
// and dy * x_hat of each channel from c0 on.
template <class T>
void backward_of_pieces(const NormBackward<T>& call, const NormStatistics<T>& s, std::int64_t group,
                        std::int64_t c0, std::int64_t c1, double* sum_dy, double* sum_dy_x_hat) {
  const NormDims& dims = call.dims;
  const std::int64_t n = dims.channels_per_set, row = group * dims.channels;
  thread_local simd::AlignedBuffer<T> memory;
  const std::array<T*, 2> arrays = two_arrays(memory, c1 - c0);
  T *centred = arrays[0], *g = arrays[1];
  for_activated_rows<T>(dims, c0, c1, [&](auto d, auto width, auto activation, std::int64_t c) {
    using R = Row<decltype(width)::value, decltype(d)>;
    const RowConstants<decltype(width)::value, decltype(d), T> k(d, call, s, c);
    R x = R::load(d, call.x + row + c), dy = R::load(d, call.dy + row + c);
    R::each([&](int j) { k.centre_and_activate(d, activation, j, x.v[j], dy.v[j]); });
    x.store(d, centred + c - c0);
    dy.store(d, g + c - c0);
  });
  for (std::int64_t c = c0; c < c1; c += n) {
    const std::int64_t at = c - c0;
    const double rest = s.mean_rest[c], rstd = s.rstd[c];
    const auto [a, b] = sums_of_piece<2>(n, [&](auto d, std::int64_t i) {  // of shift_and_slope
      const auto dy = simd::load_double(d, g + at + i);
      const auto x_hat = hn::Mul(hn::Sub(simd::load_double(d, centred + at + i), hn::Set(d, rest)),
                                 hn::Set(d, rstd));
      const auto dy_x_hat = hn::Mul(dy, x_hat);
      hn::StoreU(dy, d, sum_dy + at + i);
      hn::StoreU(dy_x_hat, d, sum_dy_x_hat + at + i);
      const auto gamma = simd::load_double(d, call.gamma + c + i);
      return std::array{hn::Mul(gamma, dy), hn::Mul(gamma, dy_x_hat)};
    });
    if (!call.dx.data) continue;
    const ShiftAndSlope<T> k = shift_and_slope(call, rest, rstd, a, b);
    simd::for_vectors<T>(0, n, [&](auto d, std::int64_t i) {
      const auto scale = hn::Mul(hn::Set(d, s.rstd[c]), hn::LoadU(d, call.gamma + c + i));
      const auto straight = hn::MulSub(hn::LoadU(d, g + at + i), scale, hn::Set(d, k.shift));
      auto dx = hn::NegMulAdd(hn::LoadU(d, centred + at + i), hn::Set(d, k.slope), straight);
      T* to = call.dx.data + row + c + i;
      if (call.dx.write == Write::kAccumulate) dx = hn::Add(dx, hn::LoadU(d, to));
      hn::StoreU(dx, d, to);
    });
  }
}

}  // namespace sidechannel::kernels
