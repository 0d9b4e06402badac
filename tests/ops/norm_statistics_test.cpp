#include <gtest/gtest.h>

#include <numeric>

#include "engine/gradcheck.h"
#include "engine/modules.h"
#include "tests/harness/backends.h"
#include "tests/harness/norm_check.h"

// Where a normalization's mean and variance come from: accuracy far from zero, running statistics,
// and the evaluation by population statistics.

namespace sidechannel {
namespace {

using harness::check_population;
using harness::Draw;
using harness::error_of;
using harness::make_population;
using harness::narrowed;
using harness::NormCase;
using harness::Population;
using harness::Walled;
using kernels::CpuQueue;
using kernels::NormDims;
using enum kernels::Activation;

// --- Accuracy -----------------------------------------------------------------------------------

// Mean 4096 and deviation 1.25: E[x^2] - mean^2 subtracts two numbers of 2^24, whose spacing in f32
// is 1 to 2; a whole number is what is left of a variance of 1.56, if that. Two passes lose almost
// nothing.
TEST(NormStatistics, StayAccurateFarFromZero) {
  for (const NormDims& dims :
       {NormDims{2, 600, 3, 1, 1, 1e-5, kNone}, NormDims{2, 100, 12, 12, 1, 1e-5, kNone},
        NormDims{4, 150, 5, 1, 4, 1e-5, kNone}}) {
    const std::vector<double> ones(static_cast<std::size_t>(dims.channels), 1);
    NormCase c{dims, {}, ones, std::vector<double>(ones.size()), {}};
    for (float x : Draw(1).normals<float>(dims.batch * dims.length * dims.channels, 4096, 1.25)) {
      c.x.push_back(x);
    }
    const harness::SetStatistics s = harness::statistics_of(c);
    harness::NormBuffers<float> b(c);
    run(harness::queue(), b.forward());
    const auto x = b.x.values(), y = b.y.values(), mean = b.mean.values(), rest = b.rest.values(),
               rstd = b.rstd.values();

    // The mean is off by g(m) 4096 at most, as derived in norm_act_test.cpp: in theory .15 for 600
    // values; for one that is off by e, the variance grows by e^2.
    const double e = harness::gamma_of<float>(dims.set_size() + 1) * 4097;
    const double bound = e * e + harness::gamma_of<float>(dims.set_size() + 5) * 2;
    for (std::size_t i = 0; i < mean.size(); ++i) {
      EXPECT_LE(std::abs(mean[i] - s.mean[i] + rest[i]), e);
      const double variance = 1 / (double(rstd[i]) * double(rstd[i])) - dims.epsilon;
      EXPECT_LE(std::abs(variance / s.variance[i] - 1), bound) << variance;
    }
    // In practice errors of both signs cancel: the normalized values are good to a hundredth.
    for (std::size_t i = 0; i < y.size(); ++i) {
      const std::size_t set = c.statistic_of(i);
      EXPECT_NEAR(y[i], (c.x[i] - s.mean[set]) * s.rstd[set], 0.01);
    }

    // The known-wrong variant fails the same bound.
    float sum = 0, squares = 0;
    std::int64_t count = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (c.statistic_of(i) / static_cast<std::size_t>(dims.channels_per_set) != 0) continue;
      sum += x[i];
      squares += x[i] * x[i];
      ++count;
    }
    ASSERT_EQ(count, dims.set_size());
    const float naive_mean = sum / static_cast<float>(count);
    const float naive = squares / static_cast<float>(count) - naive_mean * naive_mean;
    EXPECT_GT(std::abs(naive / s.variance[0] - 1), bound) << naive;
  }
}

// --- Running statistics -------------------------------------------------------------------------

// PyTorch's running statistics straight from the values, in double.
struct Expected {
  std::vector<double> mean, variance;
};

Expected run_directly(const NormDims& dims, const std::vector<std::vector<double>>& batches,
                      double momentum, Expected running) {
  const auto channels = static_cast<std::size_t>(dims.channels);
  const bool instance = dims.samples_per_set == 1;
  for (const std::vector<double>& x : batches) {
    // Instance norm averages over the batch's sets, then moves once; batch norm moves for each set.
    for (std::int64_t first = 0; first < dims.batch;) {
      const std::int64_t samples = instance ? dims.batch : dims.samples_per_set;
      for (std::size_t c = 0; c < channels; ++c) {
        double current_mean = 0;
        double current_variance = 0;
        const std::int64_t sets = samples / dims.samples_per_set;
        for (std::int64_t set = 0; set < sets; ++set) {
          std::vector<double> values;
          for (std::int64_t i = 0; i < dims.samples_per_set * dims.length; ++i) {
            const std::int64_t row = (first + set * dims.samples_per_set) * dims.length + i;
            values.push_back(x[static_cast<std::size_t>(row) * channels + c]);
          }
          const auto n = static_cast<double>(values.size());
          const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
          double squares = 0;
          for (double value : values) squares += (value - mean) * (value - mean);
          current_mean += mean / static_cast<double>(sets);
          current_variance += squares / (n - 1) / static_cast<double>(sets);  // unbiased
        }
        running.mean[c] = (1 - momentum) * running.mean[c] + momentum * current_mean;
        running.variance[c] = (1 - momentum) * running.variance[c] + momentum * current_variance;
      }
      first += samples;
    }
  }
  return running;
}

template <class T>
void check_running(const NormDims& dims, double tolerance) {
  const std::size_t channels = static_cast<std::size_t>(dims.channels);
  Draw draw(9);
  std::vector<std::vector<double>> batches;
  for (int i = 0; i < 5; ++i) {
    const auto x = draw.normals<T>(dims.batch * dims.length * dims.channels, 3, 2);
    batches.emplace_back(x.begin(), x.end());
  }
  const std::vector<T> gamma(channels, 1), beta(channels, 0);
  const auto sets = static_cast<std::size_t>(dims.groups() * dims.channels);
  std::vector<T> y(batches[0].size()), mean(sets), rest(sets), rstd(sets);
  Walled<T> running_mean(std::vector<T>(channels, 0)),
      running_variance(std::vector<T>(channels, 1));
  for (const std::vector<double>& batch : batches) {
    const auto x = narrowed<T>(batch);
    run(harness::queue(),
        kernels::NormForward<T>{.dims = dims,
                                .x = x.data(),
                                .gamma = gamma.data(),
                                .beta = beta.data(),
                                .y = y.data(),
                                .statistics = {mean.data(), rest.data(), rstd.data()}});
    run(harness::queue(),
        kernels::NormUpdateRunning<T>{.dims = dims,
                                      .momentum = 0.3,
                                      .statistics = {mean.data(), rest.data(), rstd.data()},
                                      .running_mean = running_mean.data(),
                                      .running_variance = running_variance.data()});
  }
  const Expected expected = run_directly(
      dims, batches, 0.3, {std::vector<double>(channels, 0), std::vector<double>(channels, 1)});
  EXPECT_TRUE(running_mean.walls_stand() && running_variance.walls_stand());
  for (std::size_t c = 0; c < channels; ++c) {
    EXPECT_NEAR(running_mean.values()[c], expected.mean[c], tolerance * 5);
    EXPECT_NEAR(running_variance.values()[c], expected.variance[c], tolerance * 10);
  }
}

// The error of a mean or variance of m values of size 5 is below g(m + 8) times that, as derived in
// norm_act_test.cpp; a weighted mean of such errors is no larger.
TEST(NormStatistics, RunningAveragesAgreeWithADirectComputation) {
  for (const NormDims& dims :
       {NormDims{4, 30, 7, 1, 1, 1e-5, kRelu}, NormDims{6, 21, 3, 1, 2, 1e-5, kRelu},
        NormDims{8, 5, 17, 1, 4, 1e-5, kRelu}, NormDims{4, 9, 2, 1, 4, 1e-5, kRelu},
        NormDims{1, 2, 1, 1, 1, 1e-5, kRelu}}) {
    check_running<float>(dims, harness::gamma_of<float>(dims.set_size() + 8));
    check_running<double>(dims, harness::gamma_of<double>(dims.set_size() + 8));
  }
}

TEST(NormStatistics, RunningVarianceOfOneValueIsZero) {
  const NormDims dims{2, 1, 1, 1, 1, 1e-5, kRelu};
  std::vector<double> mean{1, 3}, rest(2), rstd(2, 1 / std::sqrt(1e-5));
  double running_mean = 0;
  double running_variance = 1;
  run(harness::queue(),
      kernels::NormUpdateRunning<double>{.dims = dims,
                                         .momentum = 0.1,
                                         .statistics = {mean.data(), rest.data(), rstd.data()},
                                         .running_mean = &running_mean,
                                         .running_variance = &running_variance});
  EXPECT_NEAR(running_mean, 0.2, 1e-15);
  EXPECT_NEAR(running_variance, 0.9, 1e-15);
}

TEST(NormStatistics, OnlyTrainingMovesThem) {
  ParameterList list(harness::device(), DType::kF64, 1);
  const NormRelu norm(list, "norm", 3, {1, 2, 1e-5, kRelu}, true);
  std::map<std::string, HostArray> tensors;
  const auto running = [&](const char* name) {
    list.save(tensors);
    const auto values = tensors.at(name).as<double>();
    return std::vector<double>(values.begin(), values.end());
  };
  const Tensor x = Draw(3).tensor({4, 7, 3}, 2, 3);
  Tape tape(harness::device(), DType::kF64);
  norm(tape.constant(x), Statistics::kMinibatch);
  norm(tape.constant(x), Statistics::kPopulation);
  EXPECT_EQ(running("norm.running_mean"), (std::vector<double>{0, 0, 0}));
  EXPECT_EQ(running("norm.running_var"), (std::vector<double>{1, 1, 1}));
  norm(tape.constant(x), Statistics::kTraining);
  const Expected expected = run_directly({4, 7, 3, 1, 2, 1e-5, kRelu}, {harness::values_of(x)}, 0.1,
                                         {{0, 0, 0}, {1, 1, 1}});
  EXPECT_LE(harness::relative_difference(running("norm.running_mean"), expected.mean), 1e-14);
  EXPECT_LE(harness::relative_difference(running("norm.running_var"), expected.variance), 1e-14);
}

TEST(NormStatistics, TheModuleSaysWhenNoneWereTracked) {
  ParameterList list(harness::device(), DType::kF64, 1);
  const NormRelu norm(list, "norm", 3, {});
  Tape tape(harness::device(), DType::kF64);
  const Var x = tape.make({1, 4, 3});
  EXPECT_EQ(error_of([&] { norm(x, Statistics::kPopulation); }),
            "norm_relu: population statistics were not tracked by this layer");
}

// --- Population statistics ----------------------------------------------------------------------

TEST(NormPopulation, KernelsAgreeWithTheDefinition) {
  std::uint64_t seed = 0;
  for (const NormDims& dims : harness::norm_dims(110)) {
    check_population<float>(harness::queue(2), make_population<float>(dims, ++seed));
    check_population<double>(harness::queue(2), make_population<double>(dims, seed));
  }
  for (const NormDims& dims : harness::large_norm_dims()) {
    check_population<float>(harness::queue(2), make_population<float>(dims, ++seed));
  }
}

// How the batch was grouped in training does not matter any more: a batch of another size will do.
TEST(NormPopulation, TakesAnyBatch) {
  Population p = make_population<double>({3, 7, 6, 1, 1, 1e-5, kRelu}, 6);
  p.c.dims.samples_per_set = 4;
  check_population<double>(harness::queue(2), p);
  p.c.dims.channels_per_set = 5;
  check_population<double>(harness::queue(2), p);
}

TEST(NormPopulation, SameBitsWithAnyNumberOfThreads) {
  for (const NormDims& dims : harness::large_norm_dims()) {
    const Population p = make_population<float>(dims, 3);
    harness::OnCpu::expect_same_bits(p.c.text(), [&](CpuQueue& queue) {
      harness::PopulationBuffers<float> b(p);
      run(queue, b.forward());
      run(queue, b.backward());
      std::vector<float> all;
      for (const auto* part : {&b.y, &b.dx, &b.dgamma, &b.dbeta}) {
        all.insert(all.end(), part->values().begin(), part->values().end());
      }
      return all;
    });
  }
}

TEST(NormPopulation, Gradients) {
  std::uint64_t seed = 0;
  for (const NormDims& dims : harness::norm_dims(110)) {
    const Population p = make_population<double>(dims, ++seed);
    const auto channels = Shape{dims.channels};
    const Tensor mean = harness::tensor_of(p.mean, channels);
    const Tensor variance = harness::tensor_of(p.variance, channels);
    GradientCheckOptions options;
    options.seed = seed;
    NormOptions norm;
    norm.activation = dims.activation;
    const GradientCheck check = check_gradients(
        [&](Tape&, std::span<const Var> in) {
          return norm_relu_population(in[0], in[1], in[2], mean, variance, norm);
        },
        std::vector{harness::tensor_of(p.c.x, {dims.batch, dims.length, dims.channels}),
                    harness::tensor_of(p.c.gamma, channels),
                    harness::tensor_of(p.c.beta, channels)},
        options);
    EXPECT_TRUE(check.passed()) << p.c.text() << "\n" << check.message();
  }
}

// Normalizing a batch by its own statistics, given as population statistics, is the batch's norm.
TEST(NormPopulation, WithTheBatchsStatisticsIsTheBatchsNorm) {
  const auto c = harness::make_norm_case<double>({3, 17, 5, 1, 3, 1e-5, kRelu}, 4);
  const harness::SetStatistics s = harness::statistics_of(c);
  Tape tape(harness::device(), DType::kF64);
  const Var x = tape.constant(harness::tensor_of(c.x, {3, 17, 5}));
  const Var gamma = tape.constant(harness::tensor_of(c.gamma, {5}));
  const Var beta = tape.constant(harness::tensor_of(c.beta, {5}));
  const Var a = norm_relu(x, gamma, beta, {1, 3, 1e-5, kRelu});
  const Var b = norm_relu_population(x, gamma, beta, harness::tensor_of(s.mean, {5}),
                                     harness::tensor_of(s.variance, {5}), {});
  EXPECT_LE(
      harness::relative_difference(harness::values_of(a.value()), harness::values_of(b.value())),
      1e-14);
}

}  // namespace
}  // namespace sidechannel
