#pragma once

// Kernels of normalization against their definition, for every backend (backends.h).

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/norm_act.h"
#include "tests/harness/activation.h"
#include "tests/harness/backends.h"
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
//
// Of a set that is not centred, mean and r end as 0, and variance + mean^2 stands for the variance,
// q = mean x^2: off by what the variance is, by 2 |mean| e_mean + e_mean^2, and by 4u q. All is
// bounded by what is known about 0: |mean| <= mean|x|, mean|x - mean| <= 2 mean|x|, variance <= q.
template <class T>
struct NormBound {
  double mean, rstd;  // errors, absolute and relative
  double rest;        // the most that mean_rest may be

  NormBound(const NormCase& c, const SetStatistics& s, std::size_t set, std::int64_t most) {
    const std::int64_t p = std::min(most, c.dims.set_size());
    const double u = kUnitRoundoff<T>;
    const double first = gamma_of<T>(p + 2) * s.mean_magnitude[set];
    const double most_mean = c.dims.centred ? std::abs(s.mean[set]) : s.mean_magnitude[set];
    const double d =
        s.deviation_magnitude[set] + first + (c.dims.centred ? 0 : s.mean_magnitude[set]);
    const double reference = gamma_of<double>(c.dims.set_size() + 2) * s.mean_magnitude[set];
    mean = gamma_of<T>(p + 3) * d + 2 * u * u * most_mean + reference;
    double variance = gamma_of<T>(p + 4) * (s.variance[set] + first * first) + 2 * first * mean;
    if (!c.dims.centred) variance += (2 * most_mean + mean) * mean + 4 * u * s.variance[set];
    rstd = variance / (s.variance[set] + c.dims.epsilon) + 4 * u;
    const bool near_zero = s.mean[set] * s.mean[set] <= 4 * s.variance[set];
    rest = (near_zero ? 1 : u) * std::abs(s.mean[set]) + mean;
    if (!c.dims.centred) mean = rest = 0;
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

// The buffers of a normalization, by its own statistics or by a population's, and its calls on
// them.
template <class Backend, class T>
struct NormBuffers {
  kernels::NormDims dims;
  BufferOn<Backend, T> x, gamma, beta, population_mean, population_variance, dy;
  BufferOn<Backend, T> y, mean, rest, rstd, dx, dgamma, dbeta;

  explicit NormBuffers(const NormCase& c)
      : dims(c.dims),
        x(narrowed<T>(c.x)),
        gamma(narrowed<T>(c.gamma)),
        beta(narrowed<T>(c.beta)),
        population_mean(narrowed<T>(c.population_mean)),
        population_variance(narrowed<T>(c.population_variance)),
        dy(narrowed<T>(c.dy)),
        y(dims.size()),
        mean(dims.groups() * dims.channels),
        rest(dims.groups() * dims.channels),
        rstd(dims.groups() * dims.channels),
        dx(dims.size()),
        dgamma(dims.channels),
        dbeta(dims.channels) {}

  kernels::NormStatistics<T> statistics() { return {mean.data(), rest.data(), rstd.data()}; }
  kernels::NormForward<T> forward() {
    return {.dims = dims,
            .x = x.data(),
            .gamma = gamma.data(),
            .beta = beta.data(),
            .y = y.data(),
            .statistics = statistics()};
  }
  kernels::NormBackward<T> backward() {
    return {.dims = dims,
            .x = x.data(),
            .gamma = gamma.data(),
            .beta = beta.data(),
            .statistics = statistics(),
            .dy = dy.data(),
            .dx = {dx.data()},
            .dbeta = {dbeta.data()},
            .dgamma = {dgamma.data()}};
  }
  kernels::NormPopulationForward<T> population_forward() {
    return {.dims = dims,
            .x = x.data(),
            .gamma = gamma.data(),
            .beta = beta.data(),
            .mean = population_mean.data(),
            .variance = population_variance.data(),
            .y = y.data()};
  }
  kernels::NormPopulationBackward<T> population_backward() {
    return {.dims = dims,
            .x = x.data(),
            .gamma = gamma.data(),
            .beta = beta.data(),
            .mean = population_mean.data(),
            .variance = population_variance.data(),
            .dy = dy.data(),
            .dx = {dx.data()},
            .dbeta = {dbeta.data()},
            .dgamma = {dgamma.data()}};
  }
};

// What a forward pass gave for a case: y and the statistics.
template <class T>
void expect_norm_forward(const NormCase& c, std::int64_t most_roundings, std::span<const T> y,
                         std::span<const T> mean, std::span<const T> rest,
                         std::span<const T> rstd) {
  const SetStatistics s = statistics_of(c);
  for (std::size_t i = 0; i < s.mean.size(); ++i) {
    const NormBound<T> bound(c, s, i, most_roundings);
    ASSERT_LE(std::abs((mean[i] - s.mean[i]) + rest[i]), bound.mean) << i;
    ASSERT_LE(std::abs(rest[i]), bound.rest) << i;
    ASSERT_LE(std::abs(rstd[i] - s.rstd[i]), bound.rstd * s.rstd[i]) << i;
  }
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    const double bound = NormBound<T>(c, s, c.statistic_of(i), most_roundings).y(c, s, i);
    const ActivationAt at = activation_at(c.dims.activation, pre_activation(c, s, i));
    const double after = at.steepest * bound + gamma_of<T>(at.roundings) * std::abs(at.value);
    ASSERT_TRUE(std::abs(static_cast<double>(y[i]) - at.value) <= after)
        << "y[" << i << "] is " << y[i] << ", expected " << at.value << " within " << after;
  }
}

// The most roundings that a term of a sum over a set passes.
template <class Backend>
inline constexpr std::int64_t kMostOfSet = std::is_same_v<Backend, OnCpu> ? 33 : 170;

template <class Backend, class T>
void check_norm_forward(auto& queue, const NormCase& c) {
  NormBuffers<Backend, T> b(c);
  run(queue, b.forward());
  EXPECT_TRUE(b.y.walls_stand() && b.mean.walls_stand() && b.rest.walls_stand() &&
              b.rstd.walls_stand());
  expect_norm_forward<T>(c, kMostOfSet<Backend>, b.y.values(), b.mean.values(), b.rest.values(),
                         b.rstd.values());
}

// dx, dgamma and dbeta, each alone, all three at once, and none, with these roundings.
template <class T>
void expect_norm_gradients(auto& queue, auto& buffers, auto call, const Reference& dx,
                           std::int64_t of_dx, const Reference& dgamma, std::int64_t of_dgamma,
                           const Reference& dbeta, std::int64_t of_dbeta) {
  using Buffer = decltype(buffers.dx);
  using Out = GradOut<T>;
  const auto backward = [&](Out to_x, Out to_gamma, Out to_beta) {
    call.dx = to_x;
    call.dgamma = to_gamma;
    call.dbeta = to_beta;
    run(queue, call);
  };
  const Out all[] = {call.dx, call.dgamma, call.dbeta};
  expect_gradient<Buffer>("dx", dx, of_dx, [&](Out out) { backward(out, {}, {}); });
  expect_gradient<Buffer>("dgamma", dgamma, of_dgamma, [&](Out out) { backward({}, out, {}); });
  expect_gradient<Buffer>("dbeta", dbeta, of_dbeta, [&](Out out) { backward({}, {}, out); });
  backward(all[0], all[1], all[2]);
  expect_near<T>("dx", buffers.dx.values(), dx, of_dx);
  expect_near<T>("dgamma", buffers.dgamma.values(), dgamma, of_dgamma);
  expect_near<T>("dbeta", buffers.dbeta.values(), dbeta, of_dbeta);
  EXPECT_TRUE(buffers.dx.walls_stand() && buffers.dgamma.walls_stand() &&
              buffers.dbeta.walls_stand());
  backward({}, {}, {});
}

// Which statistics gradients go through; the others are held.
struct Through {
  bool mean = true, variance = true;
};
inline constexpr Through kAllThrough[] = {{}, {false, true}, {true, false}, {false, false}};

// Backward, given statistics rounded to T and a rest of the mean (so that only the rule's own sums
// round): what the definition gives, for the calls on the buffers.
template <class Backend, class T>
struct NormGradients {
  const NormCase& c;
  NormBuffers<Backend, T> buffers;
  Reference dgamma, dbeta;

  explicit NormGradients(const NormCase& of)
      : c(of),
        buffers(c),
        dgamma(c.dims.channels),
        dbeta(c.dims.channels),
        s_(statistics_of(c)),
        mean_dy_(static_cast<std::int64_t>(s_.mean.size())),
        mean_dy_x_hat_(mean_dy_),
        through_(c.x.size()),
        magnitude_(c.x.size()),
        x_hat_(c.x.size()) {
    // So that mean + rest is exact.
    for (double& value : s_.mean) value = static_cast<float>(value);
    buffers.mean.set(narrowed<T>(s_.mean));
    buffers.rstd.set(narrowed<T>(s_.rstd));
    const auto mean_values = buffers.mean.values(), rstd_values = buffers.rstd.values();
    std::vector<T> rests(s_.mean.size());
    for (std::size_t i = 0; i < rests.size(); ++i) {
      rests[i] = static_cast<float>(s_.mean[i] * 1e-4);  // larger than it ever is
      s_.mean[i] = static_cast<double>(mean_values[i]) + rests[i];
      s_.rstd[i] = rstd_values[i];
    }
    buffers.rest.set(rests);

    const auto count = static_cast<double>(c.dims.set_size());
    for (std::size_t i = 0; i < c.x.size(); ++i) {
      const std::size_t channel = c.channel_of(i), statistic = c.statistic_of(i);
      const auto set = static_cast<std::int64_t>(first_of_set(i));
      x_hat_[i] = (c.x[i] - s_.mean[statistic]) * s_.rstd[statistic];
      const double z = pre_activation(c, s_, i);
      const ActivationAt at = activation_at(c.dims.activation, z);
      // What z is off by: four roundings of its terms, of which the rest of the mean is twice one.
      const double rest = c.gamma[channel] * s_.rstd[statistic] * rests[statistic];
      const double terms =
          std::abs(z - c.beta[channel]) + std::abs(c.beta[channel]) + 2 * std::abs(rest);
      through_[i] = at.slope * c.dy[i];
      const double m = magnitude_[i] = at.through(c.dy[i], terms);
      const double gamma = c.gamma[channel], gamma_m = std::abs(gamma) * m / count;
      dbeta.add(static_cast<std::int64_t>(channel), through_[i], m);
      dgamma.add(static_cast<std::int64_t>(channel), through_[i] * x_hat_[i],
                 m * std::abs(x_hat_[i]));
      mean_dy_.add(set, gamma * through_[i] / count, gamma_m);
      mean_dy_x_hat_.add(set, gamma * through_[i] * x_hat_[i] / count,
                         gamma_m * std::abs(x_hat_[i]));
    }
  }

  Reference dx(Through through = {}) const {
    Reference dx(static_cast<std::int64_t>(c.x.size()));
    for (std::size_t i = 0; i < c.x.size(); ++i) {
      const std::size_t set = first_of_set(i);
      const auto at = static_cast<std::int64_t>(i);
      const double r = s_.rstd[c.statistic_of(i)];
      const double own = r * c.gamma[c.channel_of(i)];
      dx.add(at, own * through_[i], std::abs(own) * magnitude_[i]);
      if (through.mean && c.dims.centred) {
        dx.add(at, -r * mean_dy_.value[set], r * mean_dy_.magnitude[set]);
      }
      if (!through.variance) continue;
      dx.add(at, -r * x_hat_[i] * mean_dy_x_hat_.value[set],
             r * std::abs(x_hat_[i]) * mean_dy_x_hat_.magnitude[set]);
    }
    return dx;
  }

  // Beside the sums: products by rstd (3), gamma, 1 / m (2), x - mean (2) and the last sum (3).
  static constexpr std::int64_t kProducts = 11;
  std::int64_t of_slope() const { return activation_at(c.dims.activation, 0).roundings; }
  std::int64_t of_dx() const { return c.dims.set_size() + of_slope() + kProducts; }

  void expect_all(auto& queue) {
    const std::int64_t values = c.dims.batch * c.dims.length + of_slope();
    expect_norm_gradients<T>(queue, buffers, buffers.backward(), dx(), of_dx(), dgamma,
                             values + kProducts, dbeta, values);
  }
  // dx of a call through `some`, as that through `those`.
  void expect_dx(auto& queue, Through some, Through those) {
    kernels::NormBackward<T> call = buffers.backward();
    call.dgamma = call.dbeta = {};
    call.through_mean = some.mean;
    call.through_variance = some.variance;
    run(queue, call);
    expect_near<T>("dx", buffers.dx.values(), dx(those), of_dx());
  }

 private:
  std::size_t first_of_set(std::size_t i) const {
    return c.statistic_of(i) - c.channel_of(i) % static_cast<std::size_t>(c.dims.channels_per_set);
  }

  SetStatistics s_;
  Reference mean_dy_, mean_dy_x_hat_;
  std::vector<double> through_, magnitude_, x_hat_;
};

template <class Backend, class T>
void check_norm_backward(auto& queue, const NormCase& c) {
  NormGradients<Backend, T> gradients(c);
  gradients.expect_all(queue);
  for (const Through some : kAllThrough) {
    SCOPED_TRACE(testing::Message() << "through " << some.mean << " " << some.variance);
    gradients.expect_dx(queue, some, some);
  }
}

// y = activation(x_hat gamma + beta) with a few roundings; gradients with those of their sums.
template <class Backend, class T>
void check_population(auto& queue, const NormCase& c) {
  const kernels::NormDims& dims = c.dims;
  SCOPED_TRACE(c.text());
  Reference y(dims.size()), dx(dims.size()), dgamma(dims.channels), dbeta(dims.channels);
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    const std::size_t channel = c.channel_of(i);
    const double scale = c.population_scale(channel);
    const double x_hat = (c.x[i] - c.population_mean[channel]) * scale;
    const double z = c.gamma[channel] * x_hat + c.beta[channel];
    const double terms = std::abs(z - c.beta[channel]) + std::abs(c.beta[channel]);
    const ActivationAt activated = activation_at(dims.activation, z);
    y.add(at, activated.value, activated.steepest * terms);
    const double through = activated.slope * c.dy[i];
    const double m = activated.through(c.dy[i], terms);
    dx.add(at, through * c.gamma[channel] * scale, m * std::abs(c.gamma[channel] * scale));
    dgamma.add(static_cast<std::int64_t>(channel), through * x_hat, m * std::abs(x_hat));
    dbeta.add(static_cast<std::int64_t>(channel), through, m);
  }
  NormBuffers<Backend, T> b(c);
  // rstd (5, with the root of a rounded sum), x - mean, the products and the sum.
  const std::int64_t roundings = 10 + activation_at(dims.activation, 0).roundings;
  run(queue, b.population_forward());
  expect_near<T>("y", b.y.values(), y, roundings);
  EXPECT_TRUE(b.y.walls_stand());
  const std::int64_t values = dims.batch * dims.length;
  expect_norm_gradients<T>(queue, b, b.population_backward(), dx, roundings, dgamma,
                           values + roundings, dbeta, values + roundings);
}

}  // namespace sidechannel::harness
