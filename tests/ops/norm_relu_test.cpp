#include "kernels/norm_relu.h"

#include <gtest/gtest.h>

#include "engine/gradcheck.h"
#include "tests/harness/norm_case.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::NormCase;
using harness::Reference;
using harness::SetStatistics;
using harness::Walled;
using kernels::CpuQueue;
using kernels::GradOut;
using kernels::NormDims;

template <class T>
std::vector<T> narrowed(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

double pre_activation(const NormCase& c, const SetStatistics& s, std::size_t i) {
  const std::size_t set = c.statistic_of(i);
  const std::size_t channel = c.channel_of(i);
  return c.gamma[channel] * (c.x[i] - s.mean[set]) * s.rstd[set] + c.beta[channel];
}

// Forward, with the bound on its rounding errors worked out along the way; u is T's unit roundoff,
// g(n) the relative error of n roundings, m the size of a set:
//
//   mean      a sum of m values and a product by a rounded 1 / m: off by e_mean = g(m+1) mean|x|
//   variance  moves by e_mean^2 for the wrong mean, and by g(m+5) for its own sums and products
//   rstd      half the relative error of variance + epsilon, and a few roundings: e_rstd
//   y         |gamma| rstd (e_mean + 2u|x - mean|) + |gamma x_hat| (e_rstd + 3u) + 2u (|gamma
//   x_hat| + |beta|)
//
// ReLU makes no error larger.
template <class T>
void check_forward(const NormCase& c) {
  const double u = harness::kUnitRoundoff<T>;
  const SetStatistics s = harness::statistics_of(c);
  const auto sets = static_cast<std::int64_t>(s.mean.size());
  const Walled<T> x(narrowed<T>(c.x)), gamma(narrowed<T>(c.gamma)), beta(narrowed<T>(c.beta));
  Walled<T> y(static_cast<std::int64_t>(c.x.size())), mean(sets), rstd(sets);
  norm_relu_forward(harness::queue(2), c.dims, x.data(), gamma.data(), beta.data(), y.data(),
                    mean.data(), rstd.data());
  EXPECT_TRUE(y.walls_stand() && mean.walls_stand() && rstd.walls_stand());

  const std::int64_t m = c.dims.set_size();
  std::vector<double> e_mean(s.mean.size()), e_rstd(s.mean.size());
  for (std::size_t i = 0; i < s.mean.size(); ++i) {
    e_mean[i] = harness::gamma_of<T>(m + 1) * s.mean_magnitude[i];
    const double shift = e_mean[i] * e_mean[i];
    const double e_variance = shift + harness::gamma_of<T>(m + 5) * (s.variance[i] + shift);
    e_rstd[i] = e_variance / (s.variance[i] + c.dims.epsilon) + 5 * u;
    ASSERT_LE(std::abs(mean.values()[i] - s.mean[i]), e_mean[i]) << "mean[" << i << "]";
    ASSERT_LE(std::abs(rstd.values()[i] - s.rstd[i]), e_rstd[i] * s.rstd[i]) << "rstd[" << i << "]";
  }
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    const std::size_t set = c.statistic_of(i);
    const std::size_t channel = c.channel_of(i);
    const double deviation = std::abs(c.x[i] - s.mean[set]);
    const double scale = std::abs(c.gamma[channel]) * s.rstd[set];
    const double bound = scale * (e_mean[set] + 2 * u * deviation) +
                         scale * deviation * (e_rstd[set] + 3 * u) +
                         2 * u * (scale * deviation + std::abs(c.beta[channel]));
    double expected = pre_activation(c, s, i);
    if (c.dims.relu) expected = std::max(expected, 0.0);
    ASSERT_TRUE(std::abs(static_cast<double>(y.values()[i]) - expected) <= bound)
        << "y[" << i << "] is " << y.values()[i] << ", expected " << expected << " within "
        << bound;
  }
}

// Backward, given statistics rounded to T (so that only the rule's own sums round).
template <class T>
void check_backward(const NormCase& c) {
  SetStatistics s = harness::statistics_of(c);
  const Walled<T> mean(narrowed<T>(s.mean)), rstd(narrowed<T>(s.rstd));
  s.mean.assign(mean.values().begin(), mean.values().end());
  s.rstd.assign(rstd.values().begin(), rstd.values().end());

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
    through[i] = !c.dims.relu || pre_activation(c, s, i) > 0 ? c.dy[i] : 0;
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

  CpuQueue& queue = harness::queue(2);
  const Walled<T> x(narrowed<T>(c.x)), gamma(narrowed<T>(c.gamma)), beta(narrowed<T>(c.beta)),
      dy(narrowed<T>(c.dy));
  const auto run = [&](GradOut<T> to_x, GradOut<T> to_gamma, GradOut<T> to_beta) {
    norm_relu_backward(queue, c.dims, x.data(), gamma.data(), beta.data(), mean.data(), rstd.data(),
                       dy.data(), to_x, to_gamma, to_beta);
  };
  // Beside the sums: products by rstd (3), gamma, 1 / m (2), x - mean (2) and the last sum (3).
  constexpr std::int64_t kProducts = 11;
  const std::int64_t values = c.dims.batch * c.dims.length;
  harness::expect_gradient<T>("dx", dx, c.dims.set_size() + kProducts,
                              [&](GradOut<T> out) { run(out, {}, {}); });
  harness::expect_gradient<T>("dgamma", dgamma, values + kProducts,
                              [&](GradOut<T> out) { run({}, out, {}); });
  harness::expect_gradient<T>("dbeta", dbeta, values, [&](GradOut<T> out) { run({}, {}, out); });
  // All three at once.
  Walled<T> a(size), b(c.dims.channels), d(c.dims.channels);
  run({a.data()}, {b.data()}, {d.data()});
  harness::expect_near<T>("dx", a.values(), dx, c.dims.set_size() + kProducts);
  harness::expect_near<T>("dgamma", b.values(), dgamma, values + kProducts);
  harness::expect_near<T>("dbeta", d.values(), dbeta, values);
  EXPECT_TRUE(a.walls_stand() && b.walls_stand() && d.walls_stand());
  run({}, {}, {});
}

TEST(NormRelu, KernelsAgreeWithTheDefinition) {
  std::vector<NormDims> all = harness::norm_dims(140);
  for (const NormDims& dims : harness::large_norm_dims()) all.push_back(dims);
  std::uint64_t seed = 0;
  for (const NormDims& dims : all) {
    const auto c = harness::make_norm_case<float>(dims, ++seed);
    SCOPED_TRACE(c.text());
    check_forward<float>(c);
    check_backward<float>(c);
  }
}

TEST(NormRelu, KernelsAgreeWithTheDefinitionInDouble) {
  std::uint64_t seed = 0;
  for (const NormDims& dims : harness::norm_dims(70)) {
    const auto c = harness::make_norm_case<double>(dims, ++seed);
    SCOPED_TRACE(c.text());
    check_forward<double>(c);
    check_backward<double>(c);
  }
}

TEST(NormRelu, SameBitsWithAnyNumberOfThreads) {
  for (const NormDims& dims : harness::large_norm_dims()) {
    const auto c = harness::make_norm_case<float>(dims, 5);
    const auto x = narrowed<float>(c.x), gamma = narrowed<float>(c.gamma),
               beta = narrowed<float>(c.beta), dy = narrowed<float>(c.dy);
    harness::expect_same_bits(c.text(), [&](CpuQueue& queue) {
      const auto sets = static_cast<std::size_t>(dims.sample_groups() * dims.channels);
      std::vector<float> all(2 * x.size() + 2 * sets + 2 * gamma.size());
      float* y = all.data();
      float* dx = y + x.size();
      float* mean = dx + x.size();
      float* rstd = mean + sets;
      float* dgamma = rstd + sets;
      float* dbeta = dgamma + gamma.size();
      norm_relu_forward(queue, dims, x.data(), gamma.data(), beta.data(), y, mean, rstd);
      norm_relu_backward(queue, dims, x.data(), gamma.data(), beta.data(), mean, rstd, dy.data(),
                         GradOut<float>{dx}, GradOut<float>{dgamma}, GradOut<float>{dbeta});
      return all;
    });
  }
}

// A value that is not a number spoils its set, and nothing else.
TEST(NormRelu, LetsNaNThrough) {
  for (bool relu : {false, true}) {
    const NormDims dims{2, 9, 20, 1, 1, 1e-5, relu};
    auto x = Draw(1).normals<float>(2 * 9 * 20);
    x[3 * 20 + 6] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> gamma(20, 1), beta(20, -0.1f);
    std::vector<float> y(x.size()), mean(40), rstd(40);
    norm_relu_forward(harness::queue(), dims, x.data(), gamma.data(), beta.data(), y.data(),
                      mean.data(), rstd.data());
    for (std::size_t i = 0; i < y.size(); ++i) {
      EXPECT_EQ(std::isnan(y[i]), i < 9 * 20 && i % 20 == 6) << i;
    }
  }
}

NormOptions options_of(const NormDims& dims) {
  NormOptions options;
  options.channels_per_set = dims.channels_per_set;
  options.samples_per_set = dims.samples_per_set;
  options.epsilon = dims.epsilon;
  options.relu = dims.relu;
  return options;
}

std::vector<Tensor> inputs_of(const NormCase& c) {
  const NormDims& d = c.dims;
  return {harness::tensor_of(c.x, {d.batch, d.length, d.channels}),
          harness::tensor_of(c.gamma, {d.channels}), harness::tensor_of(c.beta, {d.channels})};
}

TEST(NormRelu, Gradients) {
  std::uint64_t seed = 0;
  for (const NormDims& dims : harness::norm_dims(210)) {  // 30 of each kind
    const auto c = harness::make_norm_case<double>(dims, ++seed);
    GradientCheckOptions options;
    options.seed = seed;
    const GradientCheck check = check_gradients(
        [&](Tape&, std::span<const Var> in) {
          return norm_relu(in[0], in[1], in[2], options_of(dims));
        },
        inputs_of(c), options);
    EXPECT_TRUE(check.passed()) << c.text() << "\n" << check.message();
  }
}

// A set of one value is its own mean: whatever x is, y = relu(beta). The gradient of x is zero, and
// a relative error of zero means nothing: the differences vanish exactly, and the rule's three
// terms cancel to the rounding errors of numbers as large as rstd = 1 / sqrt(epsilon) = 316.
TEST(NormRelu, SetsOfOneValueHaveNoGradient) {
  const auto c = harness::make_norm_case<double>({3, 1, 4, 1, 1, 1e-5, true}, 8);
  const GradientCheck check = check_gradients(
      [&](Tape&, std::span<const Var> in) {
        return norm_relu(in[0], in[1], in[2], options_of(c.dims));
      },
      inputs_of(c));
  EXPECT_TRUE(check.passed()) << check.message();
  EXPECT_EQ(check.inputs[0].norm, 0);
  EXPECT_LE(check.inputs[0].error, 100 * 316 * harness::kUnitRoundoff<double>);
  EXPECT_EQ(check.inputs[1].norm, 0);  // gamma: x_hat is zero
  EXPECT_GT(check.inputs[2].norm, 0.1);
}

// The fused operation does what its two parts do, in the same order: equal values, forward and
// backward, with a random cotangent.
TEST(NormRelu, IsItsComposition) {
  std::uint64_t seed = 0;
  for (NormDims dims : harness::norm_dims(60)) {
    dims.relu = true;
    const auto c = harness::make_norm_case<double>(dims, ++seed);
    NormOptions options = options_of(dims);
    const auto run = [&](bool fused) {
      Tape tape(harness::device(), DType::kF64);
      std::vector<Var> in;
      for (const Tensor& input : inputs_of(c)) in.push_back(tape.leaf(input));
      options.relu = fused;
      Var y = norm_relu(in[0], in[1], in[2], options);
      if (!fused) y = relu(y);
      tape.backward(y, harness::tensor_of(c.dy, y.shape()));
      std::vector<std::vector<double>> all = {harness::values_of(y.value())};
      for (const Var& input : in) all.push_back(harness::values_of(tape.gradient(input)));
      return all;
    };
    EXPECT_EQ(run(true), run(false)) << c.text();
  }
}

TEST(NormRelu, RefusesWrongShapes) {
  Tape tape(harness::device(), DType::kF64);
  const auto norm = [&](Shape x, Shape gamma, Shape beta, const NormOptions& options) {
    return error_of([&] { norm_relu(tape.make(x), tape.make(gamma), tape.make(beta), options); });
  };
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, {}), "no error");
  EXPECT_EQ(norm({9, 6}, {6}, {6}, {}), "norm_relu: expected x of shape [N, L, C], got [9, 6]");
  EXPECT_EQ(norm({4, 9, 6}, {5}, {6}, {}),
            "norm_relu: expected gamma and beta of shape [6], got [5] and [6]");
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6, 1}, {}),
            "norm_relu: expected gamma and beta of shape [6], got [6] and [6, 1]");
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, {4, 1}),
            "norm_relu: sets of 4 channels do not divide 6 channels");
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, {0, 1}),
            "norm_relu: sets of 0 channels do not divide 6 channels");
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, {1, 3}),
            "norm_relu: sets of 3 samples do not divide a batch of 4");
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, {1, -1}),
            "norm_relu: sets of -1 samples do not divide a batch of 4");

  const Tensor six = Tensor::zeros(harness::device(), DType::kF64, {6});
  const Tensor five = Tensor::zeros(harness::device(), DType::kF64, {5});
  RunningStatistics running{six, six};
  NormOptions updating;
  updating.update = &running;
  updating.channels_per_set = 2;
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, updating),
            "norm_relu: running statistics need sets of one channel, got 2");
  running.variance = five;
  updating.channels_per_set = 1;
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, updating),
            "norm_relu: expected a mean and a variance of shape [6], got [6] and [5]");

  const auto population = [&](Shape x, Shape gamma, const Tensor& mean, const Tensor& variance) {
    return error_of([&] {
      norm_relu_population(tape.make(x), tape.make(gamma), tape.make(gamma), mean, variance, {});
    });
  };
  EXPECT_EQ(population({4, 9, 6}, {6}, six, six), "no error");
  EXPECT_EQ(population({6}, {6}, six, six),
            "norm_relu_population: expected x of shape [N, L, C], got [6]");
  EXPECT_EQ(population({4, 9, 6}, {5}, six, six),
            "norm_relu_population: expected gamma and beta of shape [6], got [5] and [5]");
  EXPECT_EQ(population({4, 9, 6}, {6}, five, six),
            "norm_relu_population: expected a mean and a variance of shape [6], got [5] and [6]");
}

}  // namespace
}  // namespace sidechannel
