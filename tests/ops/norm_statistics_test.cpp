#include <fmt/format.h>
#include <gtest/gtest.h>

#include <numeric>

#include "engine/modules.h"
#include "tests/harness/norm_check.h"

// Where a normalization's mean and variance come from: accuracy far from zero, running statistics,
// and the evaluation by population statistics.

namespace sidechannel {
namespace {

using harness::BufferOn;
using harness::Draw;
using harness::error_of;
using harness::make_population;
using harness::narrowed;
using harness::NormBuffers;
using harness::NormCase;
using harness::widened;
using kernels::NormDims;
using enum kernels::Activation;

// --- Accuracy -----------------------------------------------------------------------------------

NormCase far_from_zero(const NormDims& dims, double mean, double deviation) {
  const std::vector<double> ones(static_cast<std::size_t>(dims.channels), 1);
  return {dims,
          widened(Draw(1).normals<float>(dims.size(), mean, deviation)),
          ones,
          std::vector<double>(ones.size()),
          {}};
}

// Mean 4096 and deviation 1.25: E[x^2] - mean^2 subtracts two numbers of 2^24, whose spacing in f32
// is 1 to 2; a whole number is what is left of a variance of 1.56, if that. Two passes lose almost
// nothing.
BACKEND_TEST(NormStatistics, StayAccurateFarFromZero) {
  for (const NormDims& dims :
       {NormDims{2, 600, 3, 1, 1, 1e-5, kNone}, NormDims{2, 100, 12, 12, 1, 1e-5, kNone},
        NormDims{4, 150, 5, 1, 4, 1e-5, kNone}, NormDims{2, 600, 64, 64, 1, 1e-5, kNone},
        NormDims{1, 9000, 4, 1, 1, 1e-5, kNone}}) {
    const NormCase c = far_from_zero(dims, 4096, 1.25);
    SCOPED_TRACE(c.text());
    const harness::SetStatistics s = harness::statistics_of(c);
    NormBuffers<Backend, float> b(c);
    run(Backend::queue(), b.forward());
    const auto x = b.x.values(), y = b.y.values(), mean = b.mean.values(), rest = b.rest.values(),
               rstd = b.rstd.values();
    // Two units in the last place of 4096 for the mean; in the variance, its square.
    const double ulps = 2 * 4096 * std::numeric_limits<float>::epsilon();
    for (std::size_t i = 0; i < mean.size(); ++i) {
      EXPECT_NEAR(mean[i], s.mean[i], ulps);
      EXPECT_NEAR(mean[i] + double(rest[i]), s.mean[i], ulps);
      const double variance = 1 / (double(rstd[i]) * double(rstd[i])) - dims.epsilon;
      EXPECT_NEAR(variance / s.variance[i], 1, 1e-5);
    }
    for (std::size_t i = 0; i < y.size(); ++i) {
      const std::size_t set = c.statistic_of(i);
      EXPECT_NEAR(y[i], (c.x[i] - s.mean[set]) * s.rstd[set], 0.01);
    }

    // The known-wrong variant is off by far more.
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
    EXPECT_GT(std::abs(naive / s.variance[0] - 1), 0.1) << naive;
  }
}

// The mean of a large set is off by its own rounding to float alone, and a constant has no
// variance, however far from zero it lies: what CUDA sums in chunks is corrected for the rounding
// of their means. Half a unit in the last place, and some of double's; of the variance, double's of
// the mean squared.
BACKEND_TEST(NormStatistics, LargeSetsRoundOnce) {
  for (const NormDims& dims :
       {NormDims{1, 9001, 4, 1, 1, 1e-5, kNone}, NormDims{3, 3001, 4, 1, 3, 1e-5, kNone},
        NormDims{1, 700, 64, 64, 1, 1e-5, kNone}}) {
    for (const double deviation : {0.0, 1.25}) {
      const NormCase c = far_from_zero(dims, 4096.3, deviation);
      SCOPED_TRACE(c.text());
      const harness::SetStatistics s = harness::statistics_of(c);
      NormBuffers<Backend, float> b(c);
      run(Backend::queue(), b.forward());
      const auto mean = b.mean.values(), rstd = b.rstd.values();
      for (std::size_t i = 0; i < s.mean.size(); ++i) {
        ASSERT_NEAR(mean[i], s.mean[i], s.mean[i] * harness::kUnitRoundoff<float> * (1 + 1e-3));
        if (deviation == 0) {
          ASSERT_NEAR(rstd[i] * std::sqrt(dims.epsilon), 1, 1e-5);
        }
      }
    }
  }
}

// A mean within a deviation of zero is all rest, also of values so small that epsilon is a tenth of
// their variance; four deviations away it is the mean, rounded.
BACKEND_TEST(NormStatistics, AMeanNearZeroIsAllRest) {
  for (const NormDims& dims :
       {NormDims{2, 600, 3, 1, 1, 1e-5, kNone}, NormDims{2, 100, 12, 12, 1, 1e-5, kNone},
        NormDims{1, 9001, 4, 1, 1, 1e-5, kNone}, NormDims{1, 700, 64, 64, 1, 1e-5, kNone}}) {
    for (const double deviation : {0.01, 1.25}) {
      for (const double deviations : {0.5, -0.5, 4.0, -4.0}) {
        const NormCase c = far_from_zero(dims, deviations * deviation, deviation);
        SCOPED_TRACE(c.text() + fmt::format(" {} deviations of {}", deviations, deviation));
        const harness::SetStatistics s = harness::statistics_of(c);
        NormBuffers<Backend, float> b(c);
        run(Backend::queue(), b.forward());
        const auto mean = b.mean.values();
        for (std::size_t i = 0; i < s.mean.size(); ++i) {
          const double rounded = std::abs(deviations) < 1 ? 0 : s.mean[i];
          ASSERT_NEAR(mean[i], rounded, 2 * std::abs(rounded) * harness::kUnitRoundoff<float>);
        }
      }
    }
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
    // Sets of one sample are averaged over the batch, then move once; batch norm moves for each
    // set.
    for (std::int64_t first = 0; first < dims.batch;) {
      const std::int64_t samples = instance ? dims.batch : dims.samples_per_set;
      for (std::size_t c = 0; c < channels; ++c) {
        const std::size_t together = static_cast<std::size_t>(dims.channels_per_set);
        double current_mean = 0;
        double current_variance = 0;
        const std::int64_t sets = samples / dims.samples_per_set;
        for (std::int64_t set = 0; set < sets; ++set) {
          std::vector<double> values;
          for (std::int64_t i = 0; i < dims.samples_per_set * dims.length; ++i) {
            const std::int64_t row = (first + set * dims.samples_per_set) * dims.length + i;
            const std::size_t at = static_cast<std::size_t>(row) * channels;
            for (std::size_t k = 0; k < together; ++k) {
              values.push_back(x[at + c / together * together + k]);
            }
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

template <class Backend, class T>
void check_running(auto& queue, const NormDims& dims) {
  const auto channels = static_cast<std::size_t>(dims.channels);
  const std::vector<double> zeros(channels, 0), ones(channels, 1);
  Draw draw(9);
  std::vector<std::vector<double>> batches;
  for (int i = 0; i < 5; ++i) batches.push_back(widened(draw.normals<T>(dims.size(), 3, 2)));
  const NormCase c{dims, batches[0], ones, zeros, {}};
  SCOPED_TRACE(c.text());
  NormBuffers<Backend, T> b(c);
  BufferOn<Backend, T> running_mean(narrowed<T>(zeros)), running_variance(narrowed<T>(ones));
  for (const std::vector<double>& batch : batches) {
    b.x.set(narrowed<T>(batch));
    run(queue, b.forward());
    run(queue, kernels::NormUpdateRunning<T>{.dims = dims,
                                             .momentum = 0.3,
                                             .statistics = b.statistics(),
                                             .running_mean = running_mean.data(),
                                             .running_variance = running_variance.data()});
  }
  const Expected expected = run_directly(dims, batches, 0.3, {zeros, ones});
  EXPECT_TRUE(running_mean.walls_stand() && running_variance.walls_stand());
  const double tolerance = harness::gamma_of<T>(dims.set_size() + 8);
  for (std::size_t i = 0; i < channels; ++i) {
    EXPECT_NEAR(running_mean.values()[i], expected.mean[i], tolerance * 5);
    EXPECT_NEAR(running_variance.values()[i], expected.variance[i], tolerance * 10);
  }
}

// The error of a mean or variance of m values of size 5 is below g(m + 8) times that, as derived in
// norm_check.h; a weighted mean of such errors is no larger.
BACKEND_TEST(NormStatistics, RunningAveragesAgreeWithADirectComputation) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const NormDims& dims :
         {NormDims{4, 30, 7, 1, 1, 1e-5, kRelu}, NormDims{6, 21, 3, 1, 2, 1e-5, kRelu},
          NormDims{8, 5, 17, 1, 4, 1e-5, kRelu}, NormDims{8, 5, 65, 1, 4, 1e-5, kRelu},
          NormDims{4, 9, 2, 1, 4, 1e-5, kRelu}, NormDims{1, 2, 1, 1, 1, 1e-5, kRelu},
          // GroupNorm, LayerNorm, and channels and samples
          NormDims{4, 13, 12, 3, 1, 1e-5, kRelu}, NormDims{3, 21, 7, 7, 1, 1e-5, kRelu},
          NormDims{1, 1, 2, 2, 1, 1e-5, kRelu}, NormDims{6, 5, 8, 4, 3, 1e-5, kRelu}}) {
      check_running<Backend, T>(queue, dims);
    }
  });
}

// Where running averages of 0.5 and 2 move from given statistics.
template <class Backend, class T>
Expected moved(auto& queue, const NormDims& dims, const std::vector<T>& mean,
               const std::vector<T>& rest, const std::vector<T>& rstd) {
  const auto channels = static_cast<std::size_t>(dims.channels);
  BufferOn<Backend, T> means(mean), rests(rest), rstds(rstd);
  BufferOn<Backend, T> running_mean(std::vector<T>(channels, T(0.5))),
      running_variance(std::vector<T>(channels, 2));
  run(queue, kernels::NormUpdateRunning<T>{.dims = dims,
                                           .momentum = 0.3,
                                           .statistics = {means.data(), rests.data(), rstds.data()},
                                           .running_mean = running_mean.data(),
                                           .running_variance = running_variance.data()});
  EXPECT_TRUE(running_mean.walls_stand() && running_variance.walls_stand());
  return {widened(running_mean.values()), widened(running_variance.values())};
}

// Given the same statistics, those in f32 follow the CPU's in f64 to a few roundings.
BACKEND_TEST(NormStatistics, RunningAveragesInSingleAreThoseInDouble) {
  for (const NormDims& dims :
       {NormDims{4, 30, 7, 1, 1, 1e-5, kRelu}, NormDims{6, 21, 3, 1, 2, 1e-5, kRelu},
        NormDims{8, 5, 65, 1, 4, 1e-5, kRelu}, NormDims{2, 1, 1, 1, 1, 1e-5, kRelu}}) {
    const std::int64_t sets = dims.groups() * dims.channels;
    Draw draw(9);
    const auto mean = draw.normals<float>(sets, 3, 2), rest = draw.normals<float>(sets, 0, 1e-7);
    auto rstd = draw.normals<float>(sets, 1, 0.1);
    rstd[0] = 1 / std::sqrt(1e-5f);  // a variance of zero, or a little less by rounding
    const Expected expected =
        moved<harness::OnCpu>(harness::queue(), dims, widened(mean), widened(rest), widened(rstd));
    const Expected actual = moved<Backend>(Backend::queue(), dims, mean, rest, rstd);
    for (std::size_t c = 0; c < expected.mean.size(); ++c) {
      EXPECT_FLOAT_EQ(static_cast<float>(actual.mean[c]), static_cast<float>(expected.mean[c]));
      EXPECT_FLOAT_EQ(static_cast<float>(actual.variance[c]),
                      static_cast<float>(expected.variance[c]));
    }
  }
}

BACKEND_TEST(NormStatistics, RunningVarianceOfOneValueIsZero) {
  Backend::for_types([]<class T>(auto& queue) {
    const std::vector<T> rstd(2, static_cast<T>(1 / std::sqrt(1e-5)));
    const Expected after =
        moved<Backend, T>(queue, {2, 1, 1, 1, 1, 1e-5, kRelu}, {1, 3}, {0, 0}, rstd);
    const double tolerance = 9 * harness::kUnitRoundoff<T>;
    EXPECT_NEAR(after.mean[0], 0.7 * 0.5 + 0.3 * 2, tolerance);
    EXPECT_NEAR(after.variance[0], 0.7 * 2, tolerance);
  });
}

// The variance is unbiased by the size of the set, of all its channels: known-wrong sizes are off.
TEST(NormStatistics, RunningAveragesOfOtherSetsAreWrong) {
  const NormDims dims{2, 3, 4, 2, 1, 1e-5, kRelu};
  const std::vector<double> x = Draw(2).normals<double>(dims.size(), 1, 2), zeros(4), ones(4, 1);
  NormBuffers<harness::OnCpu, double> b(NormCase{dims, x, ones, zeros, {}});
  run(harness::queue(), b.forward());
  const auto variance = [&](const NormDims& as) {
    std::vector<double> mean = zeros, moved = ones;
    run(harness::queue(), kernels::NormUpdateRunning<double>{.dims = as,
                                                             .momentum = 0.3,
                                                             .statistics = b.statistics(),
                                                             .running_mean = mean.data(),
                                                             .running_variance = moved.data()});
    return moved;
  };
  const Expected expected = run_directly(dims, {x}, 0.3, {zeros, ones});
  EXPECT_LE(harness::relative_difference(variance(dims), expected.variance), 1e-14);
  NormDims channel = dims;
  channel.channels_per_set = 1;
  EXPECT_GT(harness::relative_difference(variance(channel), expected.variance), 0.01);
}

TEST(NormStatistics, OnlyTrainingMovesThem) {
  ParameterList list(harness::device(), DType::kF64, 1);
  const NormAct norm(list, "norm", 3, {1, 2, 1e-5, kRelu}, true);
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
  const NormAct norm(list, "norm", 3, {});
  Tape tape(harness::device(), DType::kF64);
  const Var x = tape.make({1, 4, 3});
  EXPECT_EQ(error_of([&] { norm(x, Statistics::kPopulation); }),
            "norm_act: population statistics were not tracked by this layer");
  EXPECT_EQ(error_of([&] { NormAct(list, "rms", 3, {.centred = false}, true); }),
            "norm_act: RMS statistics have no mean for running statistics to follow");
}

// --- Population statistics ----------------------------------------------------------------------

BACKEND_TEST(NormPopulation, AgreesWithTheDefinition) {
  Backend::for_types([]<class T>(auto& queue) {
    const auto check = [&](const NormDims& dims, std::uint64_t seed) {
      check_population<Backend, T>(queue, make_population<T>(dims, seed));
    };
    std::uint64_t seed = 0;
    for (const NormDims& dims : harness::all_norm_dims()) check(dims, ++seed);
    Backend::for_alignments([&] {
      check({2, 70, 32, 1, 1, 1e-5, kRelu}, 3);
      check({2, 300, 64, 64, 1, 1e-5, kRelu}, 3);
    });
  });
}

// How the batch was grouped in training does not matter any more: a batch of another size will do.
BACKEND_TEST(NormPopulation, TakesAnyBatch) {
  Backend::for_types([]<class T>(auto& queue) {
    NormCase c = make_population<T>({3, 7, 6, 1, 1, 1e-5, kRelu}, 6);
    c.dims.samples_per_set = 4;
    check_population<Backend, T>(queue, c);
    c.dims.channels_per_set = 5;
    check_population<Backend, T>(queue, c);
  });
}

BACKEND_TEST(NormPopulation, SameBitsEveryTime) {
  for (const NormDims& dims : harness::large_norm_dims()) {
    const NormCase c = make_population<float>(dims, 3);
    Backend::expect_same_bits(c.text(), [&](auto& queue) {
      NormBuffers<Backend, float> b(c);
      run(queue, b.population_forward());
      run(queue, b.population_backward());
      return harness::values_of_all({&b.y, &b.dx, &b.dgamma, &b.dbeta});
    });
  }
}

TEST(NormPopulation, Gradients) {
  std::uint64_t seed = 0;
  for (const NormDims& dims : harness::norm_dims(110)) {
    const NormCase c = make_population<double>(dims, ++seed);
    const auto channels = Shape{dims.channels};
    const Tensor mean = harness::tensor_of(c.population_mean, channels);
    const Tensor variance = harness::tensor_of(c.population_variance, channels);
    const NormOptions norm = {.activation = dims.activation};
    harness::expect_gradients(
        [&](Tape&, std::span<const Var> in) {
          return norm_act_population(in[0], in[1], in[2], mean, variance, norm);
        },
        std::vector{harness::tensor_of(c.x, {dims.batch, dims.length, dims.channels}),
                    harness::tensor_of(c.gamma, channels), harness::tensor_of(c.beta, channels)},
        {.seed = seed}, c.text());
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
  const Var a = norm_act(x, gamma, beta, {1, 3, 1e-5, kRelu});
  const Var b = norm_act_population(x, gamma, beta, harness::tensor_of(s.mean, {5}),
                                    harness::tensor_of(s.variance, {5}), {});
  EXPECT_LE(
      harness::relative_difference(harness::values_of(a.value()), harness::values_of(b.value())),
      1e-14);
}

}  // namespace
}  // namespace sidechannel
