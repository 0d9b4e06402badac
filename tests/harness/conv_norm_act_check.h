#pragma once

// A layer of a row against its definition in fp64, from what its kernels read and left.

#include <cmath>
#include <string>
#include <vector>

#include "tests/harness/conv_check.h"
#include "tests/harness/conv_norm_act_case.h"
#include "tests/harness/norm_check.h"

namespace sidechannel::harness {

// Rules that are wrong in one thing, for tests of the bounds.
enum class LayerFault { kNone, kNoMean, kNoSlope, kOtherGroup, kNoMask, kRounded };

// The gradients of a layer. All of it is linear in dz: y, the statistics and the ReLU's mask are
// the kernels' own, to the bit.
//
//   g = dz where what stands before the ReLU is positive
//   dbeta = sum g,  dgamma = sum g x_hat,  x_hat = (y - mean - rest) rstd
//   dy = rstd (gamma g - a - x_hat b),  a, b the means over the set of gamma g, gamma g x_hat
//   db = sum dy,  dw = sum x dy,  dx = sum w dy
//
// Of x_hat the kernels round y - mean before they subtract the rest, so it counts as
// (|y - mean| + |rest|) rstd.
struct LayerGradients {
  Reference dx, dw, db, dgamma, dbeta;
};

inline Products products_of(const kernels::CpuQueue&) {
  return Products::kPlain;
}
#if SIDECHANNEL_HAS_CUDA
inline Products products_of(const kernels::CudaQueue& queue) {
  return queue.precision() == Precision::kTf32 ? Products::kTf32 : Products::kSplit;
}
#endif

template <class Backend, class T>
struct LayerCheck {
  // On the CPU, gradients come by minimal filtering, whose transforms and sum of slices are 16
  // roundings more (tests/ops/conv1d_test.cpp).
  static constexpr bool kFiltered = std::is_same_v<Backend, OnCpu>;
  static constexpr std::int64_t kFiltering = kFiltered ? 16 : 0;

  using Buffers = typename RowOn<Backend, T>::Buffers;
  Products products;
  kernels::Conv1dDims conv;
  NormCase norm;  // of y
  bool normalized;
  std::vector<double> x, w, b, mean, rest, rstd;
  std::vector<T> z;

  LayerCheck(Products how, const std::vector<double>& x_, Buffers& l)
      : products(how),
        conv(l.conv),
        norm{
            l.norm, widened(l.y.values()), widened(l.gamma.values()), widened(l.beta.values()), {}},
        normalized(l.normalized),
        x(x_),
        w(widened(l.w.values())),
        b(widened(l.b.values())),
        mean(widened(l.mean.values())),
        rest(widened(l.rest.values())),
        rstd(widened(l.rstd.values())),
        z(l.z.values().begin(), l.z.values().end()) {}

  // What stands before the activation, in the kernels' own arithmetic: no mask is in doubt.
  T before(std::size_t i) const {
    const T y = static_cast<T>(norm.x[i]);
    if (!normalized) return y;
    const std::size_t k = norm.statistic_of(i), c = norm.channel_of(i);
    const T scale = static_cast<T>(rstd[k]) * static_cast<T>(norm.gamma[c]);
    const T shift = std::fma(-static_cast<T>(rest[k]), scale, static_cast<T>(norm.beta[c]));
    return std::fma(y - static_cast<T>(mean[k]), scale, shift);
  }

  void expect_forward() const {
    Reference y(norm.dims.size());
    for (std::int64_t i = 0; i < norm.dims.size(); ++i) y.add(i, b[at(i % norm.dims.channels)]);
    const std::vector<double> x_factor = factors(x), w_factor = factors(w);
    for_products(conv, [&](std::int64_t in, std::int64_t tap, std::int64_t out) {
      y.add(out, x_factor[at(in)] * w_factor[at(tap)]);
    });
    const std::vector<T> values = narrowed<T>(norm.x);
    expect_near<T>("y", std::span<const T>(values), y, of_row() + 1);
    for (std::size_t i = 0; i < z.size(); ++i) ASSERT_EQ(z[i], std::max(before(i), T(0))) << i;
    if (!normalized) return;
    const auto means = narrowed<T>(mean), rests = narrowed<T>(rest), rstds = narrowed<T>(rstd);
    using Span = std::span<const T>;
    expect_norm_forward<T>(norm, kMostOfSet<Backend>, Span(z), Span(means), Span(rests),
                           Span(rstds));
  }

  LayerGradients gradients(const std::vector<double>& dz,
                           LayerFault fault = LayerFault::kNone) const {
    const std::size_t size = norm.x.size();
    const auto statistics = static_cast<std::int64_t>(mean.size());
    LayerGradients r{Reference(static_cast<std::int64_t>(x.size())),
                     Reference(static_cast<std::int64_t>(w.size())), Reference(conv.channels_out),
                     Reference(conv.channels_out), Reference(conv.channels_out)};
    Reference a(statistics), b_(statistics), dy(static_cast<std::int64_t>(size));
    std::vector<double> g(size), x_hat(size), of_x_hat(size), rstd_of(size);
    const auto count = static_cast<double>(norm.dims.set_size());
    for (std::size_t i = 0; i < size; ++i) {
      g[i] = before(i) > 0 || fault == LayerFault::kNoMask ? dz[i] : 0;
      if (!normalized) {
        dy.add(static_cast<std::int64_t>(i), g[i]);
        continue;
      }
      std::size_t k = norm.statistic_of(i);
      if (fault == LayerFault::kOtherGroup) k = (k + at(conv.channels_out)) % mean.size();
      const auto c = static_cast<std::int64_t>(norm.channel_of(i));
      rstd_of[i] = rstd[k];
      x_hat[i] = (norm.x[i] - mean[k] - rest[k]) * rstd[k];
      of_x_hat[i] = (std::abs(norm.x[i] - mean[k]) + std::abs(rest[k])) * rstd[k];
      r.dbeta.add(c, g[i]);
      r.dgamma.add(c, g[i] * x_hat[i], std::abs(g[i]) * of_x_hat[i]);
      const double share = norm.gamma[at(c)] * g[i] / count;
      a.add(set_of(i), share);
      b_.add(set_of(i), share * x_hat[i], std::abs(share) * of_x_hat[i]);
    }
    for (std::size_t i = 0; normalized && i < size; ++i) {
      const auto to = static_cast<std::int64_t>(i);
      const std::size_t set = at(set_of(i));
      const double own = norm.gamma[norm.channel_of(i)] * g[i] * rstd_of[i], r_i = rstd_of[i];
      dy.add(to, own);
      if (fault != LayerFault::kNoMean && norm.dims.centred)
        dy.add(to, -r_i * a.value[set], r_i * a.magnitude[set]);
      if (fault == LayerFault::kNoSlope) continue;
      dy.add(to, -r_i * x_hat[i] * b_.value[set], r_i * of_x_hat[i] * b_.magnitude[set]);
    }
    const bool rounded = fault == LayerFault::kRounded;
    const std::vector<double> x_factor = factors(x, rounded), w_factor = factors(w, rounded);
    for (std::size_t i = 0; i < size; ++i) {
      r.db.add(static_cast<std::int64_t>(norm.channel_of(i)), dy.value[i], dy.magnitude[i]);
    }
    for_products(conv, [&](std::int64_t in, std::int64_t tap, std::int64_t out) {
      const double value = dy.value[at(out)], magnitude = dy.magnitude[at(out)];
      const double x_i = x_factor[at(in)], w_i = w_factor[at(tap)];
      r.dx.add(in, w_i * value, std::abs(w_i) * magnitude);
      r.dw.add(tap, x_i * value, std::abs(x_i) * magnitude);
    });
    if (kFiltered) widen_for_filtering(conv, x, w, dy.magnitude, r.dx, r.dw);
    return r;
  }

  // Roundings of dy: of the sums over a set, and of the products around them, by gamma, 1 / m,
  // rstd (3), y - mean (2), and the last sums (4).
  std::int64_t of_dy() const { return normalized ? norm.dims.set_size() + 11 : 0; }
  // dy is known but for its roundings, so which way it goes to TF32 is not: off by 2^-11.
  std::int64_t of_tf32() const { return products == Products::kTf32 ? 1 << 13 : 0; }
  std::int64_t positions() const { return norm.dims.batch * norm.dims.length; }
  std::int64_t of_row() const {
    const std::int64_t count = conv.kernel_size * conv.channels_in;
    return roundings_of(products, count, count / 8);
  }
  std::int64_t of_weights() const {
    return roundings_of(products, positions(), norm.dims.batch * ((norm.dims.length + 7) / 8));
  }

  // One rounding `more` where it was added to something.
  void expect_dx(std::span<const T> actual, const LayerGradients& expected,
                 std::int64_t more = 0) const {
    expect_near<T>("dx", actual, expected.dx, of_dy() + of_tf32() + of_row() + kFiltering + more);
  }
  void expect_params(Buffers& l, const LayerGradients& expected, std::int64_t more = 0) const {
    expect_near<T>("dw", l.dw.values(), expected.dw,
                   of_dy() + of_tf32() + of_weights() + kFiltering + more);
    expect_near<T>("db", l.db.values(), expected.db, of_dy() + positions() + more);
    if (!normalized) return;
    // x_hat: y - mean, the rest (2), rstd.
    expect_near<T>("dgamma", l.dgamma.values(), expected.dgamma, positions() + 4 + more);
    expect_near<T>("dbeta", l.dbeta.values(), expected.dbeta, positions() + more);
  }

 private:
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }
  std::vector<double> factors(std::vector<double> values, bool rounded = false) const {
    if (products == Products::kTf32 || rounded) {
      std::transform(values.begin(), values.end(), values.begin(), to_tf32);
    }
    return values;
  }
  // The place of its first channel's statistics.
  std::int64_t set_of(std::size_t i) const {
    const auto c = static_cast<std::int64_t>(norm.channel_of(i));
    return static_cast<std::int64_t>(norm.statistic_of(i)) - c % norm.dims.channels_per_set;
  }
};

}  // namespace sidechannel::harness
