#pragma once

// Norms whose sets are of one position: each lies in memory in one piece, and there are as many as
// positions. Their sums run along the channels, in double at once, and nothing is kept for each
// channel on the way.

#include "kernels/cpu/norm_rows.h"

namespace sidechannel::kernels {

inline bool sets_are_pieces(const NormDims& dims) {
  return dims.rows() == 1;
}

// A sum in double over a piece of memory, eight terms side by side whatever a vector's width.
struct SumOfPiece {
  double part[8] = {};
  double total() const {
    double half[4];
    for (int j = 0; j < 4; ++j) half[j] = part[j] + part[j + 4];
    return (half[0] + half[2]) + (half[1] + half[3]);
  }
};

// f(i, part) for all i below n, in order.
template <class F>
HWY_INLINE void each_of_piece(std::int64_t n, const F& f) {
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) f(i + j, j);
  }
  for (int j = 0; i + j < n; ++j) f(i + j, j);
}

// Of the one position of a group, x [channels].
template <class T>
void statistics_of_pieces(const NormDims& dims, const T* x, std::int64_t c0, std::int64_t c1,
                          const NormStatistics<T>& s) {
  const std::int64_t n = dims.channels_per_set;
  for (std::int64_t c = c0; c < c1; c += n) {
    SumOfPiece sum, of_d, squares;
    each_of_piece(n, [&](std::int64_t i, int j) { sum.part[j] += static_cast<double>(x[c + i]); });
    const auto first = static_cast<T>(sum.total() / static_cast<double>(n));
    each_of_piece(n, [&](std::int64_t i, int j) {
      const auto d = static_cast<double>(x[c + i] - first);
      of_d.part[j] += d;
      squares.part[j] += d * d;
    });
    s.mean[c] = first;
    const double of_d_total = of_d.total(), squares_total = squares.total();
    finish_statistics(dims, c, c + 1, s, &of_d_total, &squares_total);
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
  const auto [centred, g] = two_arrays(memory, c1 - c0);
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
    SumOfPiece a, b;  // of shift_and_slope
    each_of_piece(n, [&](std::int64_t i, int j) {
      const auto dy = static_cast<double>(g[at + i]);
      const double dy_x_hat = dy * ((static_cast<double>(centred[at + i]) - rest) * rstd);
      const auto gamma = static_cast<double>(call.gamma[c + i]);
      sum_dy[at + i] = dy;
      sum_dy_x_hat[at + i] = dy_x_hat;
      a.part[j] += gamma * dy;
      b.part[j] += gamma * dy_x_hat;
    });
    if (!call.dx.data) continue;
    const auto [shift, slope] = shift_and_slope(call, rest, rstd, a.total(), b.total());
    simd::for_vectors<T>(0, n, [&](auto d, std::int64_t i) {
      const auto scale = hn::Mul(hn::Set(d, s.rstd[c]), hn::LoadU(d, call.gamma + c + i));
      const auto straight = hn::MulSub(hn::LoadU(d, g + at + i), scale, hn::Set(d, shift));
      auto dx = hn::NegMulAdd(hn::LoadU(d, centred + at + i), hn::Set(d, slope), straight);
      T* to = call.dx.data + row + c + i;
      if (call.dx.write == Write::kAccumulate) dx = hn::Add(dx, hn::LoadU(d, to));
      hn::StoreU(dx, d, to);
    });
  }
}

}  // namespace sidechannel::kernels
