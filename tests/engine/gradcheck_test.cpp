#include "engine/gradcheck.h"

#include <gtest/gtest.h>

#include "kernels/conv1d.h"
#include "kernels/copy.h"
#include "kernels/norm_act.h"
#include "tests/harness/op_check.h"

// The check itself: it accepts right gradients, and rejects known-wrong ones of every kind that a
// backward rule may well have.

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using kernels::Conv1dDims;
using kernels::GradOut;
using kernels::NormDims;
using kernels::Write;
using enum kernels::Activation;

// --- Rules with mistakes, written out as loops --------------------------------------------------

// What may go wrong on the way of a finished gradient into its place.
struct WriteMistake {
  double scale = 1;
  bool always_overwrite = false;   // forgets that there may be something already
  bool always_accumulate = false;  // forgets that there may be nothing yet
  bool nothing = false;            // writes nowhere
};

void write(const std::vector<double>& gradient, GradOut<double> out, const WriteMistake& mistake) {
  if (!out.data || mistake.nothing) return;
  const bool accumulate =
      mistake.always_accumulate || (out.write == Write::kAccumulate && !mistake.always_overwrite);
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    out.data[i] = (accumulate ? out.data[i] : 0) + mistake.scale * gradient[i];
  }
}

struct ConvMistake {
  WriteMistake dx = {}, dw = {}, db = {};
  bool flipped_taps = false;  // of dx: walks through the kernel in the wrong direction
  int halo = 0;               // reads that many positions further
  bool skips_last_sample = false;
};

Var conv1d_with(const ConvMistake& mistake, const Var& x, const Var& w, const Var& b,
                std::int64_t padding) {
  const Conv1dDims d{x.shape()[0], x.shape()[1], x.shape()[2], w.shape()[2], w.shape()[0], padding};
  Var y = x.tape().make({d.batch, d.length_out(), d.channels_out});
  run(x.device().cpu_queue(), kernels::Conv1dForward<double>{.dims = d,
                                                             .x = x.data<double>(),
                                                             .w = w.data<double>(),
                                                             .b = b.data<double>(),
                                                             .y = y.data<double>()});
  x.tape().record(y, {x, w, b}, [=](Grads& g) {
    const double* dy = g.output<double>();
    std::vector<double> dx(static_cast<std::size_t>(x.size()));
    std::vector<double> dw(static_cast<std::size_t>(w.size()));
    std::vector<double> db(static_cast<std::size_t>(b.size()));
    const std::int64_t samples = d.batch - (mistake.skips_last_sample ? 1 : 0);
    for (std::int64_t n = 0; n < samples; ++n) {
      for (std::int64_t l = 0; l < d.length_out(); ++l) {
        for (std::int64_t co = 0; co < d.channels_out; ++co) {
          const double gradient = dy[(n * d.length_out() + l) * d.channels_out + co];
          db[static_cast<std::size_t>(co)] += gradient;
          for (std::int64_t t = 0; t < d.kernel_size; ++t) {
            const std::int64_t position = l + t - padding + mistake.halo;
            if (position < 0 || position >= d.length) continue;
            const std::int64_t tap = mistake.flipped_taps ? d.kernel_size - 1 - t : t;
            for (std::int64_t ci = 0; ci < d.channels_in; ++ci) {
              const std::int64_t in = (n * d.length + position) * d.channels_in + ci;
              const auto of = [&](std::int64_t at) {
                return (at * d.channels_in + ci) * d.channels_out + co;
              };
              dx[static_cast<std::size_t>(in)] += gradient * w.data<double>()[of(tap)];
              dw[static_cast<std::size_t>(of(t))] += gradient * x.data<double>()[in];
            }
          }
        }
      }
    }
    write(dx, g.into<double>(x), mistake.dx);
    write(dw, g.into<double>(w), mistake.dw);
    write(db, g.into<double>(b), mistake.db);
  });
  return y;
}

struct NormMistake {
  WriteMistake dx = {};
  bool forgets_mean = false;   // the term of the mean's own dependence on x
  bool forgets_x_hat = false;  // the term of the variance's
  bool swaps_params = false;   // dgamma and dbeta
  bool forgets_relu = false;   // lets everything through
};

Var norm_act_with(const NormMistake& mistake, const Var& x, const Var& gamma, const Var& beta,
                  const NormOptions& options) {
  const NormDims d{x.shape()[0],
                   x.shape()[1],
                   x.shape()[2],
                   options.channels_per_set,
                   options.samples_per_set,
                   options.epsilon,
                   options.activation,
                   options.positions_per_set};
  Tape& tape = x.tape();
  Var y = tape.make(x.shape());
  const Var mean = tape.make({d.groups(), d.channels});
  const Var rest = tape.make({d.groups(), d.channels});
  const Var rstd = tape.make({d.groups(), d.channels});
  run(x.device().cpu_queue(),
      kernels::NormForward<double>{
          .dims = d,
          .x = x.data<double>(),
          .gamma = gamma.data<double>(),
          .beta = beta.data<double>(),
          .y = y.data<double>(),
          .statistics = {mean.data<double>(), rest.data<double>(), rstd.data<double>()}});
  tape.record(y, {x, gamma, beta}, [=, out = y.value()](Grads& g) {
    const auto values = static_cast<std::size_t>(x.size());
    const auto channels = static_cast<std::size_t>(d.channels);
    const auto sets = static_cast<std::size_t>(d.groups() * d.channels / d.channels_per_set);
    std::vector<double> through(values), x_hat(values), dx(values), dgamma(channels),
        dbeta(channels);
    std::vector<double> mean_dy(sets), mean_dy_x_hat(sets);
    const auto statistic = [&](std::size_t i) {  // of an element's group and channel
      const auto group = static_cast<std::int64_t>(i) / (d.rows() * d.channels);
      return group * d.channels + static_cast<std::int64_t>(i % channels);
    };
    const auto set = [&](std::size_t i) {
      return static_cast<std::size_t>(statistic(i) / d.channels_per_set);
    };
    for (std::size_t i = 0; i < values; ++i) {
      const std::size_t c = i % channels;
      const bool open = d.activation == kNone || mistake.forgets_relu || out.data<double>()[i] > 0;
      through[i] = open ? g.output<double>()[i] : 0;
      x_hat[i] = (x.data<double>()[i] - mean.data<double>()[statistic(i)] -
                  rest.data<double>()[statistic(i)]) *
                 rstd.data<double>()[statistic(i)];
      dbeta[c] += through[i];
      dgamma[c] += through[i] * x_hat[i];
      const double share = gamma.data<double>()[c] * through[i] / static_cast<double>(d.set_size());
      mean_dy[set(i)] += share;
      mean_dy_x_hat[set(i)] += share * x_hat[i];
    }
    for (std::size_t i = 0; i < values; ++i) {
      dx[i] = gamma.data<double>()[i % channels] * through[i];
      if (!mistake.forgets_mean) dx[i] -= mean_dy[set(i)];
      if (!mistake.forgets_x_hat) dx[i] -= x_hat[i] * mean_dy_x_hat[set(i)];
      dx[i] *= rstd.data<double>()[statistic(i)];
    }
    if (mistake.swaps_params) std::swap(dgamma, dbeta);
    write(dx, g.into<double>(x), mistake.dx);
    write(dgamma, g.into<double>(gamma), {});
    write(dbeta, g.into<double>(beta), {});
  });
  return y;
}

// --- The checks ---------------------------------------------------------------------------------

GradientCheck check_conv(const ConvMistake& mistake) {
  Draw draw(1);
  return check_gradients(
      [&](Tape&, std::span<const Var> in) { return conv1d_with(mistake, in[0], in[1], in[2], 2); },
      std::vector{draw.tensor({2, 9, 3}), draw.tensor({4, 3, 5}), draw.tensor({5})});
}

GradientCheck check_norm(const NormMistake& mistake, const NormOptions& options) {
  Draw draw(2);
  return check_gradients(
      [&](Tape&, std::span<const Var> in) {
        return norm_act_with(mistake, in[0], in[1], in[2], options);
      },
      std::vector{draw.tensor({4, 7, 6}), draw.tensor({6}, 1, 0.3), draw.tensor({6})});
}

const std::vector<NormOptions> kNorms = {
    {1, 1, 1e-5, kRelu}, {3, 1, 1e-5, kRelu}, {6, 1, 1e-5, kRelu}, {1, 4, 1e-5, kRelu},
    {1, 2, 1e-5, kRelu}, {1, 1, 1e-5, kNone}, {2, 2, 1e-5, kNone}, {6, 1, 1e-5, kRelu, nullptr, 1},
};

TEST(GradientCheck, AcceptsTheRulesWithoutMistakes) {
  const GradientCheck conv = check_conv({});
  EXPECT_TRUE(conv.passed()) << conv.message();
  for (const NormOptions& options : kNorms) {
    const GradientCheck norm = check_norm({}, options);
    EXPECT_TRUE(norm.passed()) << norm.message();
  }
}

// The same mistake with the gradient of one input: dx, dw or db.
ConvMistake with_one(int input, const WriteMistake& mistake) {
  ConvMistake all;
  (input == 0 ? all.dx : input == 1 ? all.dw : all.db) = mistake;
  return all;
}

TEST(GradientCheck, RejectsAScaledGradient) {
  for (int input = 0; input < 3; ++input) {
    const GradientCheck check = check_conv(with_one(input, {.scale = 1.01}));
    EXPECT_FALSE(check.passed());
    for (int i = 0; i < 3; ++i) {
      const double error = check.inputs[static_cast<std::size_t>(i)].relative_error;
      EXPECT_NEAR(error, i == input ? 0.01 : 0, 1e-6) << check.message();
    }
  }
}

TEST(GradientCheck, RejectsZeros) {
  const GradientCheck conv = check_conv({{0}, {0}, {0}});
  for (const InputCheck& input : conv.inputs) EXPECT_NEAR(input.relative_error, 1, 1e-9);
  for (const NormOptions& options : kNorms) {
    const GradientCheck norm = check_norm({{0}}, options);
    EXPECT_NEAR(norm.inputs[0].relative_error, 1, 1e-9) << norm.message();
  }
}

// Each makes some gradients wrong by far.
TEST(GradientCheck, RejectsMistakesOfAConvolution) {
  const struct {
    const char* what;
    ConvMistake mistake;
    std::vector<std::size_t> wrong;
  } cases[] = {
      {"flipped taps", {.flipped_taps = true}, {0}},
      {"a halo one too short", {.halo = -1}, {0, 1}},
      {"a halo one too long", {.halo = 1}, {0, 1}},
      {"a sample left out", {.skips_last_sample = true}, {0, 1, 2}},
      {"dx overwritten", with_one(0, {.always_overwrite = true}), {0}},
      {"dw overwritten", with_one(1, {.always_overwrite = true}), {1}},
      {"db overwritten", with_one(2, {.always_overwrite = true}), {2}},
  };
  for (const auto& [what, mistake, wrong] : cases) {
    const GradientCheck check = check_conv(mistake);
    for (const std::size_t i : wrong) {
      EXPECT_GT(check.inputs[i].relative_error, 0.1) << what << "\n" << check.message();
    }
  }
}

TEST(GradientCheck, RejectsAccumulatingToNothing) {
  const GradientCheck check = check_conv({.dx = {.always_accumulate = true}});
  EXPECT_TRUE(std::isnan(check.inputs[0].relative_error));
  EXPECT_FALSE(check.passed());
  EXPECT_NE(check.message().find("WRONG input 0 [2, 9, 3]: relative error nan, worst at [0, 0, 0]"),
            std::string::npos)
      << check.message();
}

TEST(GradientCheck, RejectsARuleThatWritesNothing) {
  EXPECT_FALSE(check_conv({.dw = {.nothing = true}}).passed());
}

TEST(GradientCheck, RejectsANormThatForgetsATerm) {
  for (const NormOptions& options : kNorms) {
    EXPECT_GT(check_norm({.forgets_mean = true}, options).inputs[0].relative_error, 0.05);
    EXPECT_GT(check_norm({.forgets_x_hat = true}, options).inputs[0].relative_error, 0.05);
  }
}

TEST(GradientCheck, RejectsSwappedParameters) {
  for (const NormOptions& options : kNorms) {
    const GradientCheck check = check_norm({.swaps_params = true}, options);
    EXPECT_GT(check.inputs[1].relative_error, 0.1) << check.message();
    EXPECT_GT(check.inputs[2].relative_error, 0.1) << check.message();
  }
}

TEST(GradientCheck, RejectsAForgottenRelu) {
  EXPECT_FALSE(check_norm({.forgets_relu = true}, kNorms[0]).passed());
}

// --- Its own promises ---------------------------------------------------------------------------

// y = x, whose rule is wrong at one element.
Var copy_with_one_wrong(const Var& x, std::int64_t place) {
  Var y = x.tape().make(x.shape());
  kernels::copy(x.device().cpu_queue(), x.size(), x.data<double>(),
                GradOut<double>{y.data<double>()});
  x.tape().record(y, {x}, [=](Grads& g) {
    std::vector<double> dx(g.output<double>(), g.output<double>() + x.size());
    if (place >= 0) dx[static_cast<std::size_t>(place)] *= 2;
    write(dx, g.into<double>(x), {});
  });
  return y;
}

TEST(GradientCheck, FindsOneWrongElementOfMany) {
  Draw draw(3);
  GradientCheckOptions options;
  options.max_elements = 10;  // which most likely miss it: the random directions do not
  const std::vector<Tensor> input = {draw.tensor({10000})};
  const auto check = [&](std::int64_t place) {
    return check_gradients(
        [=](Tape&, std::span<const Var> in) { return copy_with_one_wrong(in[0], place); }, input,
        options);
  };
  EXPECT_TRUE(check(-1).passed()) << check(-1).message();
  EXPECT_FALSE(check(7654).passed());
  EXPECT_NE(check(7654).message().find("along random direction"), std::string::npos);
}

TEST(GradientCheck, NamesTheWorstElement) {
  Draw draw(4);
  const GradientCheck check =
      check_gradients([](Tape&, std::span<const Var> in) { return copy_with_one_wrong(in[0], 23); },
                      std::vector{draw.tensor({2, 3, 5})});
  EXPECT_NE(check.message().find("worst at [1, 1, 3]: rule "), std::string::npos)
      << check.message();
}

TEST(GradientCheck, SaysWhenTheInputStandsAtAKink) {
  const GradientCheck check =
      check_gradients([](Tape&, std::span<const Var> in) { return relu(in[0]); },
                      std::vector{harness::tensor_of({-1, 0, 1}, {3})});
  EXPECT_FALSE(check.passed());
  EXPECT_NE(check.message().find("at [1]: "), std::string::npos) << check.message();
  EXPECT_NE(check.message().find("a kink? slopes 0 and "), std::string::npos) << check.message();
}

// A zero gradient is compared in absolute terms: rounding errors pass, anything more does not.
TEST(GradientCheck, JudgesZeroGradientsInAbsoluteTerms) {
  const auto constant_with = [](double slope) {
    return [slope](Tape& tape, std::span<const Var> in) {
      const Var x = in[0];
      Var y = tape.make(x.shape());
      y.value().fill(3.7);
      tape.record(y, {x}, [=](Grads& g) {
        write(std::vector<double>(static_cast<std::size_t>(x.size()), slope), g.into<double>(x),
              {});
      });
      return y;
    };
  };
  const std::vector<Tensor> input = {Draw(5).tensor({6})};
  EXPECT_TRUE(check_gradients(constant_with(0), input).passed());
  EXPECT_TRUE(check_gradients(constant_with(1e-12), input).passed());
  EXPECT_FALSE(check_gradients(constant_with(1e-7), input).passed());
}

TEST(GradientCheck, ChecksAllParametersOfAModel) {
  ParameterList list(harness::device(), DType::kF64, 1);
  Parameter& w = list.add_uniform("layer.weight", {3, 2, 4}, 0.5);
  Parameter& b = list.add_uniform("layer.bias", {4}, 0.5);
  Parameter& unused = list.add_uniform("unused", {2}, 0.5);
  const std::vector<double> before = harness::values_of(w.value);
  const Tensor x = Draw(6).tensor({2, 5, 2});
  const auto model = [&](const ConvMistake& mistake) {
    return [&, mistake](Tape& tape) {
      return conv1d_with(mistake, tape.constant(x), tape.parameter(w), tape.parameter(b), 1);
    };
  };
  const GradientCheck right = check_gradients(model({}), list);
  EXPECT_TRUE(right.passed()) << right.message();
  EXPECT_EQ(right.inputs[2].norm, 0);
  EXPECT_EQ(harness::values_of(unused.grad), (std::vector<double>{0, 0}));
  EXPECT_EQ(harness::values_of(w.value), before);

  const GradientCheck wrong = check_gradients(model({{}, {1.01}, {}}), list);
  EXPECT_FALSE(wrong.passed());
  EXPECT_NE(wrong.message().find("WRONG layer.weight [3, 2, 4]: relative error 0.01"),
            std::string::npos)
      << wrong.message();
  EXPECT_NE(wrong.message().find("ok    layer.bias [4]"), std::string::npos) << wrong.message();
}

TEST(GradientCheck, RefusesWhatItCannotCheck) {
  const auto same = [](Tape&, std::span<const Var> in) { return reshape(in[0], in[0].shape()); };
  EXPECT_EQ(error_of([&] { check_gradients(same, std::vector<Tensor>{}); }),
            "check_gradients: no inputs");
  const Tensor single = Tensor::zeros(harness::device(), DType::kF32, {2});
  EXPECT_EQ(error_of([&] { check_gradients(same, std::vector{single}); }),
            "check_gradients: expected f64, got f32");
  int calls = 0;
  const auto changing = [&](Tape& tape, std::span<const Var> in) {
    Var y = tape.make(in[0].shape());
    y.value().fill(++calls);
    return y;
  };
  EXPECT_EQ(error_of([&] { check_gradients(changing, std::vector{Draw(7).tensor({2})}); }),
            "check_gradients: the function is not one of its inputs alone: two calls differ");
  const auto unrecorded = [](Tape& tape, std::span<const Var> in) {
    return tape.constant(in[0].value());
  };
  EXPECT_EQ(error_of([&] { check_gradients(unrecorded, std::vector{Draw(7).tensor({2})}); }),
            "backward: the output does not depend on anything that asks for a gradient");
}

}  // namespace
}  // namespace sidechannel
