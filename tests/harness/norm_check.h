#pragma once

// Kernels of normalization against their definition, for every backend: Buffer is where its kernels
// find their data (Walled, or DeviceBuffer of cuda_check.h).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/norm_act.h"
#include "tests/harness/norm_case.h"

namespace sidechannel::harness {

using kernels::GradOut;

inline double pre_activation(const NormCase& c, const SetStatistics& s, std::size_t i) {
  const std::size_t set = c.statistic_of(i);
  const std::size_t channel = c.channel_of(i);
  return c.gamma[channel] * (c.x[i] - s.mean[set]) * s.rstd[set] + c.beta[channel];
}

// What the roundings of a normalization add up to; u is T's unit roundoff, g(n) the relative error
// of n roundings. A term of a sum over a set passes p roundings at most, however large the set: 33
// on the CPU (half a block of 64, and one), 170 on CUDA (16 positions of a thread, a warp's tree,
// 16 warps, 128 channels), or what the set has.
//
//   m     the first mean, off by e = g(p+2) mean|x|
//   d     x - m, off by u|d|, and mean|d| <= mean|x - mean| + e
//   mean  m + mean of d, as a pair: off by e_mean = g(p+3) mean|d| + 2u^2 |mean|
//   variance  mean of d^2 - (mean of d)^2: g(p+4) (variance + e^2) + 2 e e_mean
//   rstd  half the relative error of variance + epsilon, and a few roundings: e_rstd
//   y     with r for mean_rest, which is u|mean|, or all of a mean that is within two deviations of
//         zero, D = |x - mean| + r and s = |gamma| rstd:
//         s (e_mean + u D) + s D (e_rstd + 2u) + 2u (s D + |beta|)
//
// Far from zero nothing but e and r grow, and these by u: up to |mean| = 10^6 deviations, e is 2
// (CPU), r 0.06 of a deviation. ReLU makes no error larger.
template <class T>
struct NormBound {
  double mean, rstd;  // errors, absolute and relative
  double rest;        // the most that mean_rest may be

  NormBound(const NormCase& c, const SetStatistics& s, std::size_t set, std::int64_t most) {
    const std::int64_t p = std::min(most, c.dims.set_size());
    const double u = kUnitRoundoff<T>;
    const double first = gamma_of<T>(p + 2) * s.mean_magnitude[set];
    const double d = s.deviation_magnitude[set] + first;
    const double reference = gamma_of<double>(c.dims.set_size() + 2) * s.mean_magnitude[set];
    mean = gamma_of<T>(p + 3) * d + 2 * u * u * std::abs(s.mean[set]) + reference;
    const double variance =
        gamma_of<T>(p + 4) * (s.variance[set] + first * first) + 2 * first * mean;
    rstd = variance / (s.variance[set] + c.dims.epsilon) + 4 * u;
    const bool near_zero = s.mean[set] * s.mean[set] <= 4 * s.variance[set];
    rest = (near_zero ? 1 : u) * std::abs(s.mean[set]) + mean;
  }
  double y(const NormCase& c, const SetStatistics& s, std::size_t i) const {
    const double u = kUnitRoundoff<T>;
    const std::size_t set = c.statistic_of(i), channel = c.channel_of(i);
    const double scale = std::abs(c.gamma[channel]) * s.rstd[set];
    const double d = std::abs(c.x[i] - s.mean[set]) + rest;
    return scale * (mean + u * d) + scale * d * (rstd + 2 * u) +
           2 * u * (scale * d + std::abs(c.beta[channel]));
  }
};

template <template <class> class Buffer>
inline constexpr std::int64_t kMostRoundings = 170;
template <>
inline constexpr std::int64_t kMostRoundings<Walled> = 33;

// The buffers of a normalization, and its calls on them.
template <class T, template <class> class Buffer = Walled>
struct NormBuffers {
  kernels::NormDims dims;
  Buffer<T> x, gamma, beta, dy, y, mean, rest, rstd, dx, dgamma, dbeta;

  explicit NormBuffers(const NormCase& c)
      : dims(c.dims),
        x(narrowed<T>(c.x)),
        gamma(narrowed<T>(c.gamma)),
        beta(narrowed<T>(c.beta)),
        dy(narrowed<T>(c.dy)),
        y(dims.size()),
        mean(dims.groups() * dims.channels),
        rest(dims.groups() * dims.channels),
        rstd(dims.groups() * dims.channels),
        dx(dims.size()),
        dgamma(dims.channels),
        dbeta(dims.channels) {}

  kernels::NormForward<T> forward() {
    return {.dims = dims,
            .x = x.data(),
            .gamma = gamma.data(),
            .beta = beta.data(),
            .y = y.data(),
            .statistics = {mean.data(), rest.data(), rstd.data()}};
  }
  kernels::NormBackward<T> backward() {
    return {.dims = dims,
            .x = x.data(),
            .gamma = gamma.data(),
            .beta = beta.data(),
            .statistics = {mean.data(), rest.data(), rstd.data()},
            .dy = dy.data(),
            .dx = {dx.data()},
            .dbeta = {dbeta.data()},
            .dgamma = {dgamma.data()}};
  }
};

template <class T, template <class> class Buffer = Walled, class Queue>
void check_norm_forward(Queue& queue, const NormCase& c) {
  const SetStatistics s = statistics_of(c);
  NormBuffers<T, Buffer> b(c);
  run(queue, b.forward());
  EXPECT_TRUE(b.y.walls_stand() && b.mean.walls_stand() && b.rest.walls_stand() &&
              b.rstd.walls_stand());
  const auto y_values = b.y.values(), mean_values = b.mean.values(), rest_values = b.rest.values(),
             rstd_values = b.rstd.values();

  for (std::size_t i = 0; i < s.mean.size(); ++i) {
    const NormBound<T> bound(c, s, i, kMostRoundings<Buffer>);
    ASSERT_LE(std::abs((mean_values[i] - s.mean[i]) + rest_values[i]), bound.mean) << i;
    ASSERT_LE(std::abs(rest_values[i]), bound.rest) << i;
    ASSERT_LE(std::abs(rstd_values[i] - s.rstd[i]), bound.rstd * s.rstd[i]) << i;
  }
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    const double bound = NormBound<T>(c, s, c.statistic_of(i), kMostRoundings<Buffer>).y(c, s, i);
    double expected = pre_activation(c, s, i);
    if (c.dims.activation == kRelu) expected = std::max(expected, 0.0);
    ASSERT_TRUE(std::abs(static_cast<double>(y_values[i]) - expected) <= bound)
        << "y[" << i << "] is " << y_values[i] << ", expected " << expected << " within " << bound;
  }
}

// Backward, given statistics rounded to T and a rest of the mean (so that only the rule's own sums
// round).
template <class T, template <class> class Buffer = Walled, class Queue>
void check_norm_backward(Queue& queue, const NormCase& c) {
  SetStatistics s = statistics_of(c);
  for (double& value : s.mean) value = static_cast<float>(value);  // so that mean + rest is exact
  NormBuffers<T, Buffer> b(c);
  b.mean.set(narrowed<T>(s.mean));
  b.rstd.set(narrowed<T>(s.rstd));
  const auto mean_values = b.mean.values(), rstd_values = b.rstd.values();
  std::vector<T> rests(s.mean.size());
  for (std::size_t i = 0; i < rests.size(); ++i) {
    rests[i] = static_cast<float>(s.mean[i] * 1e-4);  // larger than it ever is
    s.mean[i] = static_cast<double>(mean_values[i]) + rests[i];
    s.rstd[i] = rstd_values[i];
  }
  b.rest.set(rests);

  const auto size = static_cast<std::int64_t>(c.x.size());
  Reference dx(size), dgamma(c.dims.channels), dbeta(c.dims.channels);
  const auto count = static_cast<double>(c.dims.set_size());
  const auto first_of_set = [&](std::size_t i) {
    return c.statistic_of(i) - c.channel_of(i) % static_cast<std::size_t>(c.dims.channels_per_set);
  };
  Reference mean_dy(static_cast<std::int64_t>(s.mean.size())), mean_dy_x_hat = mean_dy;
  std::vector<double> through(c.x.size()), x_hat(c.x.size());
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    const std::size_t channel = c.channel_of(i);
    const auto set = static_cast<std::int64_t>(first_of_set(i));
    x_hat[i] = (c.x[i] - s.mean[c.statistic_of(i)]) * s.rstd[c.statistic_of(i)];
    through[i] = c.dims.activation == kNone || pre_activation(c, s, i) > 0 ? c.dy[i] : 0;
    dbeta.add(static_cast<std::int64_t>(channel), through[i]);
    dgamma.add(static_cast<std::int64_t>(channel), through[i] * x_hat[i]);
    mean_dy.add(set, c.gamma[channel] * through[i] / count);
    mean_dy_x_hat.add(set, c.gamma[channel] * through[i] * x_hat[i] / count);
  }
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    const std::size_t set = first_of_set(i);
    const double r = s.rstd[c.statistic_of(i)];
    const double own = r * c.gamma[c.channel_of(i)] * through[i];
    dx.value[i] = own - r * mean_dy.value[set] - r * x_hat[i] * mean_dy_x_hat.value[set];
    dx.magnitude[i] = std::abs(own) + r * mean_dy.magnitude[set] +
                      r * std::abs(x_hat[i]) * mean_dy_x_hat.magnitude[set];
  }

  kernels::NormBackward<T> call = b.backward();
  const auto backward = [&](GradOut<T> dx_out, GradOut<T> dgamma_out, GradOut<T> dbeta_out) {
    call.dx = dx_out;
    call.dgamma = dgamma_out;
    call.dbeta = dbeta_out;
    run(queue, call);
  };
  // Beside the sums: products by rstd (3), gamma, 1 / m (2), x - mean (2) and the last sum (3).
  constexpr std::int64_t kProducts = 11;
  const std::int64_t values = c.dims.batch * c.dims.length;
  expect_gradient<Buffer<T>>("dx", dx, c.dims.set_size() + kProducts,
                             [&](GradOut<T> out) { backward(out, {}, {}); });
  expect_gradient<Buffer<T>>("dgamma", dgamma, values + kProducts,
                             [&](GradOut<T> out) { backward({}, out, {}); });
  expect_gradient<Buffer<T>>("dbeta", dbeta, values,
                             [&](GradOut<T> out) { backward({}, {}, out); });
  // All three at once.
  run(queue, b.backward());
  expect_near<T>("dx", b.dx.values(), dx, c.dims.set_size() + kProducts);
  expect_near<T>("dgamma", b.dgamma.values(), dgamma, values + kProducts);
  expect_near<T>("dbeta", b.dbeta.values(), dbeta, values);
  EXPECT_TRUE(b.dx.walls_stand() && b.dgamma.walls_stand() && b.dbeta.walls_stand());
  backward({}, {}, {});
}

// A case whose statistics are given: the contents of an instance norm, but other means and
// variances, and a beta behind all values of some channels.
struct Population {
  NormCase c;
  std::vector<double> mean, variance;

  double scale(std::size_t channel) const {
    return 1 / std::sqrt(variance[channel] + c.dims.epsilon);
  }
  double x_hat(std::size_t i) const {
    return (c.x[i] - mean[c.channel_of(i)]) * scale(c.channel_of(i));
  }
  double pre_activation(std::size_t i) const {
    return c.gamma[c.channel_of(i)] * x_hat(i) + c.beta[c.channel_of(i)];
  }
};

template <class T>
Population make_population(const kernels::NormDims& dims, std::uint64_t seed) {
  Population p{make_norm_case<T>(dims, seed), {}, {}};
  Draw draw(seed + 1000);
  for (std::int64_t c = 0; c < dims.channels; ++c) {
    p.mean.push_back(static_cast<T>(draw.normal(0.5, 1)));
    p.variance.push_back(static_cast<T>(std::exp(draw.normal())));
  }
  // Moves values that come near the kink away from it.
  for (std::size_t i = 0; i < p.c.x.size(); ++i) {
    while (std::abs(p.pre_activation(i)) < 1e-3) p.c.x[i] = static_cast<T>(p.c.x[i] + 0.25);
  }
  return p;
}

// The buffers of a normalization by a population, and its calls on them.
template <class T, template <class> class Buffer = Walled>
struct PopulationBuffers {
  kernels::NormDims dims;
  Buffer<T> x, gamma, beta, mean, variance, dy, y, dx, dgamma, dbeta;

  explicit PopulationBuffers(const Population& p)
      : dims(p.c.dims),
        x(narrowed<T>(p.c.x)),
        gamma(narrowed<T>(p.c.gamma)),
        beta(narrowed<T>(p.c.beta)),
        mean(narrowed<T>(p.mean)),
        variance(narrowed<T>(p.variance)),
        dy(narrowed<T>(p.c.dy)),
        y(dims.size()),
        dx(dims.size()),
        dgamma(dims.channels),
        dbeta(dims.channels) {}

  kernels::NormPopulationForward<T> forward() {
    return {.dims = dims,
            .x = x.data(),
            .gamma = gamma.data(),
            .beta = beta.data(),
            .mean = mean.data(),
            .variance = variance.data(),
            .y = y.data()};
  }
  kernels::NormPopulationBackward<T> backward() {
    return {.dims = dims,
            .x = x.data(),
            .gamma = gamma.data(),
            .beta = beta.data(),
            .mean = mean.data(),
            .variance = variance.data(),
            .dy = dy.data(),
            .dx = {dx.data()},
            .dbeta = {dbeta.data()},
            .dgamma = {dgamma.data()}};
  }
};

// y = relu(x_hat gamma + beta) with a few roundings; gradients with those of their sums.
template <class T, template <class> class Buffer = Walled, class Queue>
void check_population(Queue& queue, const Population& p) {
  const kernels::NormDims& dims = p.c.dims;
  SCOPED_TRACE(p.c.text());
  const auto size = static_cast<std::int64_t>(p.c.x.size());
  Reference y(size), dx(size), dgamma(dims.channels), dbeta(dims.channels);
  for (std::size_t i = 0; i < p.c.x.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    const std::size_t channel = p.c.channel_of(i);
    const double z = p.pre_activation(i);
    y.value[i] = dims.activation == kRelu ? std::max(z, 0.0) : z;
    y.magnitude[i] = std::abs(z - p.c.beta[channel]) + std::abs(p.c.beta[channel]);
    const double through = dims.activation == kNone || z > 0 ? p.c.dy[i] : 0;
    dx.add(at, through * p.c.gamma[channel] * p.scale(channel));
    dgamma.add(static_cast<std::int64_t>(channel), through * p.x_hat(i));
    dbeta.add(static_cast<std::int64_t>(channel), through);
  }
  PopulationBuffers<T, Buffer> b(p);
  // rstd (5, with the root of a rounded sum), x - mean, the products and the sum.
  constexpr std::int64_t kRoundings = 10;
  run(queue, b.forward());
  expect_near<T>("y", b.y.values(), y, kRoundings);
  EXPECT_TRUE(b.y.walls_stand());

  kernels::NormPopulationBackward<T> call = b.backward();
  const auto backward = [&](GradOut<T> to_x, GradOut<T> to_gamma, GradOut<T> to_beta) {
    call.dx = to_x;
    call.dgamma = to_gamma;
    call.dbeta = to_beta;
    run(queue, call);
  };
  const std::int64_t values = dims.batch * dims.length;
  expect_gradient<Buffer<T>>("dx", dx, kRoundings, [&](GradOut<T> out) { backward(out, {}, {}); });
  expect_gradient<Buffer<T>>("dgamma", dgamma, values + kRoundings,
                             [&](GradOut<T> out) { backward({}, out, {}); });
  expect_gradient<Buffer<T>>("dbeta", dbeta, values,
                             [&](GradOut<T> out) { backward({}, {}, out); });
  backward({}, {}, {});
}

}  // namespace sidechannel::harness
