#include "kernels/norm_act.h"

#include <gtest/gtest.h>

#include "engine/gradcheck.h"
#include "tests/harness/norm_check.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::make_norm_case;
using harness::NormBuffers;
using harness::NormCase;
using harness::Through;
using kernels::NormDims;
using enum kernels::Activation;

constexpr double kEpsilon = 1e-5;

template <class Backend, class T>
void check_norm(auto& queue, const NormDims& dims, std::uint64_t seed) {
  const NormCase c = make_norm_case<T>(dims, seed);
  SCOPED_TRACE(c.text());
  check_norm_forward<Backend, T>(queue, c);
  check_norm_backward<Backend, T>(queue, c);
}

BACKEND_TEST(NormAct, AgreesWithTheDefinition) {
  Backend::for_types([]<class T>(auto& queue) {
    std::uint64_t seed = 0;
    for (const auto& all : {harness::all_norm_dims(), harness::rms_dims(40),  //
                            harness::large_rms_dims()}) {
      for (const NormDims& dims : all) check_norm<Backend, T>(queue, dims, ++seed);
    }
    Backend::for_alignments([&] {
      for (const bool centred : {true, false}) {
        check_norm<Backend, T>(queue, {2, 70, 32, 1, 1, kEpsilon, kRelu, 0, centred}, 3);
        check_norm<Backend, T>(queue, {2, 300, 64, 64, 1, kEpsilon, kRelu, 0, centred}, 3);
      }
    });
  });
}

BACKEND_TEST(NormAct, SameBitsEveryTime) {
  for (const auto& all : {harness::large_norm_dims(), harness::large_rms_dims()}) {
    for (const NormDims& dims : all) {
      const NormCase c = make_norm_case<float>(dims, 5);
      Backend::expect_same_bits(c.text(), [&](auto& queue) {
        NormBuffers<Backend, float> b(c), held(c);
        run(queue, b.forward());
        run(queue, b.backward());
        run(queue, held.forward());
        kernels::NormBackward<float> call = held.backward();
        call.through_variance = false;
        run(queue, call);
        return harness::values_of_all({&b.y, &b.mean, &b.rest, &b.rstd, &b.dx, &b.dgamma, &b.dbeta,
                                       &held.dx, &held.dgamma, &held.dbeta});
      });
    }
  }
}

// Whole sets, and chunks on CUDA; positions; several samples; RMS.
const std::vector<NormDims> kHeldDims = {
    {2, 33, 12, 1, 1, kEpsilon, kRelu},
    {2, 40, 24, 8, 1, kEpsilon, kNone},
    {3, 20, 20, 20, 1, kEpsilon, kRelu, 1},
    {4, 31, 6, 1, 2, kEpsilon, kRelu},
    {4, 17, 12, 3, 4, kEpsilon, kMish},
    {1, 300, 64, 64, 1, kEpsilon, kRelu},
    {2, 33, 12, 1, 1, kEpsilon, kRelu, 0, false},
    {3, 20, 20, 20, 1, kEpsilon, kMish, 1, false},
    {1, 300, 64, 64, 1, kEpsilon, kNone, 0, false},
};

// The bounds tell apart what goes through which statistics: with all gradients near 1, both have
// something to carry.
BACKEND_TEST(NormAct, WrongPathsBackAreFound) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const NormDims& dims : kHeldDims) {
      NormCase c = make_norm_case<T>(dims, 2);
      for (double& dy : c.dy) dy = static_cast<T>(1 + 0.1 * dy);
      SCOPED_TRACE(c.text());
      harness::NormGradients<Backend, T> gradients(c);
      for (const Through some : harness::kAllThrough) {
        for (const Through those : harness::kAllThrough) {
          const bool same =
              (some.mean == those.mean || !dims.centred) && some.variance == those.variance;
          const int failures =
              harness::failures_of([&] { gradients.expect_dx(queue, some, those); });
          EXPECT_EQ(failures == 0, same)
              << some.mean << some.variance << those.mean << those.variance;
        }
      }
    }
  });
}

// A mean of squares is not a variance, nor the other way round.
BACKEND_TEST(NormAct, RmsAndVarianceAreToldApart) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const NormDims& dims : kHeldDims) {
      const NormCase c = make_norm_case<T>(dims, 2);
      NormCase other = c;
      other.dims.centred = !dims.centred;
      SCOPED_TRACE(c.text());
      NormBuffers<Backend, T> b(c);
      run(queue, b.forward());
      const auto failures = [&](const NormCase& as) {
        return harness::failures_of([&] {
          harness::expect_norm_forward<T>(as, harness::kMostOfSet<Backend>, b.y.values(),
                                          b.mean.values(), b.rest.values(), b.rstd.values());
        });
      };
      EXPECT_EQ(failures(c), 0);
      EXPECT_GT(failures(other), 0);
    }
  });
}

// Where nothing goes through the statistics an element's gradient is its own dy's: exactly 0 where
// that is 0, rstd gamma dy elsewhere, and what is not a number stays where it is.
BACKEND_TEST(NormAct, NothingPassesHeldStatistics) {
  Backend::for_types([]<class T>(auto& queue) {
    std::vector<NormDims> all = harness::norm_dims(60);
    all.insert(all.end(), kHeldDims.begin(), kHeldDims.end());
    for (const NormDims& dims : all) {
      NormCase c = make_norm_case<T>(dims, 4);
      const std::size_t spoiled = c.x.size() / 3;
      for (std::size_t i = 0; i < c.dy.size(); ++i) {
        if (i % 5 != 1) c.dy[i] = 0;
      }
      c.dy[spoiled] = std::numeric_limits<double>::quiet_NaN();
      SCOPED_TRACE(c.text());
      NormBuffers<Backend, T> b(c);
      run(queue, b.forward());
      kernels::NormBackward<T> call = b.backward();
      call.through_mean = call.through_variance = false;
      run(queue, call);
      const auto dx = b.dx.values(), rstd = b.rstd.values();
      const harness::SetStatistics s = harness::statistics_of(c);
      for (std::size_t i = 0; i < dx.size(); ++i) {
        const bool open = dims.activation != kRelu || harness::pre_activation(c, s, i) > 0;
        if (c.dy[i] == 0 || !open) {
          ASSERT_EQ(dx[i], 0) << i;
        } else if (i == spoiled) {
          ASSERT_TRUE(std::isnan(dx[i])) << i;
        } else if (dims.activation != kMish) {
          const T scale = rstd[c.statistic_of(i)] * static_cast<T>(c.gamma[c.channel_of(i)]);
          ASSERT_EQ(dx[i], static_cast<T>(c.dy[i]) * scale) << i;
        }
      }
    }
  });
}

// y[i] is not a number where spoiled(i), after one x that is none: channel 6 of position 3.
template <class Backend>
void check_nan(const NormDims& dims, const std::function<bool(std::int64_t)>& spoiled) {
  NormCase c{dims,
             Draw(1).normals<double>(dims.size()),
             std::vector<double>(20, 1),
             std::vector<double>(20, -0.1),
             {}};
  SCOPED_TRACE(c.text());
  c.x[3 * 20 + 6] = std::numeric_limits<double>::quiet_NaN();
  Backend::for_types([&]<class T>(auto& queue) {
    NormBuffers<Backend, T> b(c);
    run(queue, b.forward());
    const auto y = b.y.values();
    for (std::size_t i = 0; i < y.size(); ++i) {
      ASSERT_EQ(std::isnan(y[i]), spoiled(static_cast<std::int64_t>(i))) << i;
    }
  });
}

// It spoils its set, and nothing else; whole sets and, on CUDA, chunks.
BACKEND_TEST(NormAct, LetsNaNThrough) {
  for (const std::int64_t length : {9, 9000}) {
    for (const kernels::Activation activation : {kNone, kRelu, kMish}) {
      check_nan<Backend>({2, length, 20, 1, 1, kEpsilon, activation},
                         [&](std::int64_t i) { return i < length * 20 && i % 20 == 6; });
    }
  }
}

// Sets of one position carry nothing to another.
BACKEND_TEST(NormAct, SetsOfOnePositionKeepNaNToThemselves) {
  check_nan<Backend>({2, 9, 20, 20, 1, kEpsilon, kRelu, 1},
                     [](std::int64_t i) { return i / 20 == 3; });
}

// Where the value before the ReLU is exactly 0, no gradient passes, as in PyTorch: gamma and beta
// 0. Whole sets, chunks, a population.
BACKEND_TEST(NormAct, NothingPassesAtTheKink) {
  for (const NormDims& dims :
       {NormDims{2, 37, 8, 1, 1, kEpsilon, kRelu}, NormDims{1, 600, 64, 64, 1, kEpsilon, kRelu}}) {
    const std::vector<double> zeros(static_cast<std::size_t>(dims.channels), 0),
        ones(zeros.size(), 1);
    const NormCase c{dims,  Draw(1).normals<double>(dims.size()), zeros,
                     zeros, Draw(2).normals<double>(dims.size()), ones,
                     ones};
    SCOPED_TRACE(c.text());
    Backend::for_types([&]<class T>(auto& queue) {
      NormBuffers<Backend, T> b(c);
      const auto expect_zeros = [&] {
        for (const auto* part : {&b.dx, &b.dgamma, &b.dbeta}) {
          for (const T value : part->values()) ASSERT_EQ(value, 0);
        }
      };
      run(queue, b.forward());
      run(queue, b.backward());
      expect_zeros();
      for (auto* part : {&b.dx, &b.dgamma, &b.dbeta}) {
        part->set(std::vector<T>(part->values().size(), 1));
      }
      run(queue, b.population_backward());
      expect_zeros();
    });
  }
}

#if SIDECHANNEL_HAS_CUDA
class CudaNormActLaunches : public harness::CudaTest {};

// One launch where a block holds the sets, three where it does not: what the shapes above rely on.
TEST_F(CudaNormActLaunches, LargeSetsGoInChunks) {
  const auto launches = [](const NormDims& dims, bool backward) {
    const std::vector<double> x = Draw(1).normals<double>(dims.size());
    const std::vector<double> ones(static_cast<std::size_t>(dims.channels), 1);
    NormBuffers<harness::OnCuda, float> b(NormCase{dims, x, ones, ones, x});
    kernels::CudaQueue& queue = harness::cuda_queue();
    const std::int64_t before = queue.counters().launches;
    run(queue, b.forward());
    const std::int64_t between = queue.counters().launches;
    kernels::NormBackward<float> call = b.backward();
    call.dgamma = call.dbeta = {};
    run(queue, call);
    return backward ? queue.counters().launches - between : between - before;
  };
  EXPECT_EQ(launches({2, 600, 64, 1, 1, kEpsilon, kRelu}, false), 1);
  EXPECT_EQ(launches({2, 600, 64, 1, 1, kEpsilon, kRelu}, true), 1);
  EXPECT_EQ(launches({1, 4097, 8, 1, 1, kEpsilon, kRelu}, false), 1);
  EXPECT_EQ(launches({1, 4097, 8, 1, 1, kEpsilon, kRelu}, true), 3);
  EXPECT_EQ(launches({1, 8193, 4, 1, 1, kEpsilon, kRelu}, false), 3);
  EXPECT_EQ(launches({1, 600, 64, 64, 1, kEpsilon, kRelu}, false), 3);
  EXPECT_EQ(launches({1, 600, 64, 64, 1, kEpsilon, kRelu}, true), 3);
}

#endif

NormOptions options_of(const NormDims& dims) {
  return {.channels_per_set = dims.channels_per_set,
          .samples_per_set = dims.samples_per_set,
          .epsilon = dims.epsilon,
          .activation = dims.activation,
          .positions_per_set = dims.positions_per_set,
          .centred = dims.centred};
}

std::vector<Tensor> inputs_of(const NormCase& c) {
  const NormDims& d = c.dims;
  return {harness::tensor_of(c.x, {d.batch, d.length, d.channels}),
          harness::tensor_of(c.gamma, {d.channels}), harness::tensor_of(c.beta, {d.channels})};
}

TEST(NormAct, Gradients) {
  std::uint64_t seed = 0;
  for (const auto& all : {harness::norm_dims(210), harness::rms_dims(110)}) {  // of each kind 30
    for (const NormDims& dims : all) {
      const auto c = make_norm_case<double>(dims, ++seed);
      harness::expect_gradients(
          [&](Tape&, std::span<const Var> in) {
            return norm_act(in[0], in[1], in[2], options_of(dims));
          },
          inputs_of(c), {.seed = seed}, c.text());
    }
  }
}

// The operation, with the values of the function that its gradients should be those of: some of the
// statistics stay what they are at the case's x, wherever x moves.
Var with_held_statistics(const NormCase& c, std::span<const Var> in, Through asked, Through held) {
  NormOptions options = options_of(c.dims);
  options.through_mean = asked.mean;
  options.through_variance = asked.variance;
  Var y = norm_act(in[0], in[1], in[2], options);
  NormCase moved = c;
  moved.x = harness::values_of(in[0].value());
  moved.gamma = harness::values_of(in[1].value());
  moved.beta = harness::values_of(in[2].value());
  const harness::SetStatistics here = harness::statistics_of(c);
  harness::SetStatistics s = harness::statistics_of(moved);
  if (!held.mean) s.mean = here.mean;
  if (!held.variance) s.rstd = here.rstd;
  for (std::size_t i = 0; i < moved.x.size(); ++i) {
    const double z = harness::pre_activation(moved, s, i);
    const double value = harness::activation_at(c.dims.activation, z).value;
    // At the case's x all of them are the operation's.
    if (moved.x == c.x) {
      EXPECT_NEAR(y.data<double>()[i], value, 1e-9);
    }
    y.data<double>()[i] = value;
  }
  return y;
}

TEST(NormAct, GradientsOfHeldStatistics) {
  std::uint64_t seed = 0;
  for (const auto& all : {harness::norm_dims(110), harness::rms_dims(30)}) {
    for (const NormDims& dims : all) {
      const auto c = make_norm_case<double>(dims, ++seed);
      const Through some = harness::kAllThrough[1 + seed % 3];
      harness::expect_gradients(
          [&](Tape&, std::span<const Var> in) { return with_held_statistics(c, in, some, some); },
          inputs_of(c), {.seed = seed}, c.text());
    }
  }
}

TEST(NormAct, GradientsOfOtherStatisticsAreWrong) {
  for (const NormDims& dims :
       {NormDims{2, 13, 6, 3, 1, kEpsilon, kNone}, NormDims{4, 5, 3, 1, 2, kEpsilon, kMish}}) {
    const auto c = make_norm_case<double>(dims, 3);
    for (const Through asked : harness::kAllThrough) {
      for (const Through held : harness::kAllThrough) {
        const GradientCheck check = check_gradients(
            [&](Tape&, std::span<const Var> in) {
              return with_held_statistics(c, in, asked, held);
            },
            inputs_of(c));
        const bool same = asked.mean == held.mean && asked.variance == held.variance;
        EXPECT_EQ(check.passed(), same) << c.text() << "\n" << check.message();
        EXPECT_LE(check.inputs[1].relative_error, check.tolerance);  // gamma's has no part in it
      }
    }
  }
}

// A set of one value is its own mean: whatever x is, y = relu(beta). The gradient of x is zero, and
// a relative error of zero means nothing: the differences vanish exactly, and the rule's three
// terms cancel to the rounding errors of numbers as large as rstd = 1 / sqrt(epsilon) = 316.
TEST(NormAct, SetsOfOneValueHaveNoGradient) {
  const auto c = make_norm_case<double>({3, 1, 4, 1, 1, 1e-5, kRelu}, 8);
  const GradientCheck check = check_gradients(
      [&](Tape&, std::span<const Var> in) {
        return norm_act(in[0], in[1], in[2], options_of(c.dims));
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
TEST(NormAct, IsItsComposition) {
  std::uint64_t seed = 0;
  for (const NormDims& dims : harness::norm_dims(60)) {
    const auto c = make_norm_case<double>(dims, ++seed);
    NormOptions options = options_of(dims);
    const auto run = [&](bool fused) {
      Tape tape(harness::device(), DType::kF64);
      std::vector<Var> in;
      for (const Tensor& input : inputs_of(c)) in.push_back(tape.leaf(input));
      options.activation = fused ? dims.activation : kNone;
      Var y = norm_act(in[0], in[1], in[2], options);
      if (!fused) y = activate(y, dims.activation);
      tape.backward(y, harness::tensor_of(c.dy, y.shape()));
      std::vector<std::vector<double>> all = {harness::values_of(y.value())};
      for (const Var& input : in) all.push_back(harness::values_of(tape.gradient(input)));
      return all;
    };
    EXPECT_EQ(run(true), run(false)) << c.text();
  }
}

TEST(NormAct, RefusesWrongShapes) {
  Tape tape(harness::device(), DType::kF64);
  const auto norm = [&](Shape x, Shape gamma, Shape beta, const NormOptions& options) {
    return error_of([&] { norm_act(tape.make(x), tape.make(gamma), tape.make(beta), options); });
  };
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, {}), "no error");
  EXPECT_EQ(norm({9, 6}, {6}, {6}, {}), "norm_act: expected x of shape [N, L, C], got [9, 6]");
  EXPECT_EQ(norm({4, 9, 6}, {5}, {6}, {}),
            "norm_act: expected gamma and beta of shape [6], got [5] and [6]");
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6, 1}, {}),
            "norm_act: expected gamma and beta of shape [6], got [6] and [6, 1]");
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, {4, 1}),
            "norm_act: sets of 4 channels do not divide 6 channels");
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, {0, 1}),
            "norm_act: sets of 0 channels do not divide 6 channels");
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, {1, 3}),
            "norm_act: sets of 3 samples do not divide a batch of 4");
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, {1, -1}),
            "norm_act: sets of -1 samples do not divide a batch of 4");

  NormOptions positions;
  positions.positions_per_set = 2;
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, positions),
            "norm_act: sets of 2 positions do not divide a length of 9");
  positions.positions_per_set = -1;
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, positions),
            "norm_act: sets of -1 positions do not divide a length of 9");
  positions.positions_per_set = 3;
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, positions), "no error");
  positions.samples_per_set = 2;
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, positions),
            "norm_act: sets of 3 positions hold one sample, not 2");

  const Tensor six = Tensor::zeros(harness::device(), DType::kF64, {6});
  const Tensor five = Tensor::zeros(harness::device(), DType::kF64, {5});
  RunningStatistics running{six, six};
  NormOptions updating;
  updating.update = &running;
  updating.channels_per_set = 2;
  updating.positions_per_set = 3;
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, updating),
            "norm_act: running statistics need sets of all positions, got 3 of 9");
  updating.positions_per_set = 0;
  updating.centred = false;
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, updating),
            "norm_act: RMS statistics have no mean for running statistics to follow");
  updating.centred = true;
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, updating), "no error");
  running.variance = five;
  EXPECT_EQ(norm({4, 9, 6}, {6}, {6}, updating),
            "norm_act: expected a mean and a variance of shape [6], got [6] and [5]");

  const auto population = [&](Shape x, Shape gamma, const Tensor& mean, const Tensor& variance,
                              const NormOptions& options = {}) {
    return error_of([&] {
      norm_act_population(tape.make(x), tape.make(gamma), tape.make(gamma), mean, variance,
                          options);
    });
  };
  EXPECT_EQ(population({4, 9, 6}, {6}, six, six), "no error");
  EXPECT_EQ(population({4, 9, 6}, {6}, six, six, {.centred = false}),
            "norm_act_population: RMS statistics have no population");
  EXPECT_EQ(population({6}, {6}, six, six),
            "norm_act_population: expected x of shape [N, L, C], got [6]");
  EXPECT_EQ(population({4, 9, 6}, {5}, six, six),
            "norm_act_population: expected gamma and beta of shape [6], got [5] and [5]");
  EXPECT_EQ(population({4, 9, 6}, {6}, five, six),
            "norm_act_population: expected a mean and a variance of shape [6], got [5] and [6]");
}

}  // namespace
}  // namespace sidechannel
