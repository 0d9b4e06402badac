// The operation: layers together, where the device has them so, are what they are one by one.

#include <gtest/gtest.h>

#include <algorithm>

#include "engine/gradcheck.h"
#include "engine/modules.h"
#include "tests/harness/conv_norm_act_case.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::expect_equal_bits;
using harness::RowCase;
using harness::values_of;
using enum harness::Normalized;

// x, and the parameters of each layer: w, b and, of a normalized one, gamma and beta. In f64.
std::vector<Tensor> inputs_of(const RowCase& c, std::uint64_t seed = 7) {
  Draw draw(seed);
  std::vector<Tensor> all{draw.tensor({c.batch, c.length, c.channels})};
  const double scale = 1 / std::sqrt(static_cast<double>(c.taps * c.channels));
  for (std::int64_t i = 0; i < c.layers; ++i) {
    all.push_back(draw.tensor({c.taps, c.channels, c.channels}, 0, scale));
    all.push_back(draw.tensor({c.channels}));
    if (!c.has_norm(i)) continue;
    all.push_back(draw.tensor({c.channels}, 1, 0.3));
    all.push_back(draw.tensor({c.channels}, 0, 0.3));
  }
  return all;
}

std::vector<ConvNormActParameters> layers_of(const RowCase& c, std::span<const Var> inputs,
                                             std::span<RunningStatistics> running = {}) {
  std::vector<ConvNormActParameters> all;
  for (std::size_t i = 1; i < inputs.size();) {
    all.push_back({inputs[i], inputs[i + 1], {}});
    i += 2;
    const std::size_t layer = all.size() - 1;
    if (!c.has_norm(static_cast<std::int64_t>(layer))) continue;
    all.back().norm = {inputs[i], inputs[i + 1], running.empty() ? nullptr : &running[layer]};
    i += 2;
  }
  return all;
}

Var one_by_one(const RowCase& c, std::span<const Var> inputs, std::vector<Var>* hidden = nullptr,
               std::span<RunningStatistics> running = {}) {
  Var z = inputs[0];
  for (const auto& [w, b, norm] : layers_of(c, inputs, running)) {
    z = conv1d(z, w, b, c.padding);
    NormOptions options = c.options();
    if (norm) options.update = norm->update;
    z = norm ? norm_act(z, norm->gamma, norm->beta, options) : relu(z);
    if (hidden) hidden->push_back(z);
  }
  return z;
}
Var together(const RowCase& c, std::span<const Var> inputs, std::vector<Var>* hidden = nullptr,
             std::span<RunningStatistics> running = {}) {
  return conv_norm_act(inputs[0], layers_of(c, inputs, running), c.padding, c.options(), hidden);
}

// A tape with the inputs of a case as leaves.
struct Pass {
  Tape tape;
  std::vector<Var> in;

  Pass(const Device& device, DType type, const RowCase& c) : tape(device, type) {
    for (const Tensor& input : inputs_of(c)) {
      Tensor copy(device, type, input.shape());
      copy.copy_from(harness::array_of(values_of(input), type, input.shape()));
      in.push_back(tape.leaf(copy));
    }
  }
  // How many operations were recorded.
  std::size_t operations() const { return tape.mark().nodes - in.size(); }
  // All gradients, of a drawn cotangent of y, which comes first.
  std::vector<std::vector<double>> gradients(const Var& y) {
    Tensor cotangent(y.device(), y.dtype(), y.shape());
    cotangent.copy_from(harness::array_of(Draw(5).normals<double>(y.size()), y.dtype(), y.shape()));
    tape.backward(y, cotangent);
    std::vector<std::vector<double>> all{values_of(y.value())};
    for (const Var& one : in) all.push_back(values_of(tape.gradient(one)));
    return all;
  }
};

// What the CPU computes together with some numbers of threads and not with others, and what never.
const std::vector<RowCase> kRows = {
    {8, 64, 32, 5, 2, 3},
    {8, 64, 32, 5, 2, 2, 8},
    {8, 64, 32, 5, 2, 2, 32},
    {8, 64, 32, 5, 2, 3, 1, 2},
    {8, 64, 32, 5, 2, 3, 1, 1, kNone},
    {8, 70, 32, 5, 0, 3},
    {16, 65, 64, 5, 2, 2, 1, 4},
    {3, 20, 16, 3, 1, 2},
    {6, 64, 32, 5, 2, 1},
    {12, 40, 32, 5, 2, 4, 1, 2, kOdd},
};

// In f32 the same bits, whatever the number of threads. In f64 the gradients of convolutions come
// by another way; but they, too, do not depend on the threads.
TEST(ConvNormActOperation, GivesTheBitsOfTheOperations) {
  int fused = 0;
  for (const RowCase& c : kRows) {
    SCOPED_TRACE(c.text());
    Pass apart(harness::device(1), DType::kF32, c), first(harness::device(1), DType::kF64, c);
    const auto expected = apart.gradients(one_by_one(c, apart.in));
    const auto in_f64 = first.gradients(together(c, first.in));
    for (const int threads : {1, 2, 3}) {
      SCOPED_TRACE(threads);
      Pass pass(harness::device(threads), DType::kF32, c);
      const Var z = together(c, pass.in);
      if (pass.operations() == 1) ++fused;
      EXPECT_EQ(pass.gradients(z), expected);
      Pass other(harness::device(threads), DType::kF64, c);
      EXPECT_EQ(other.gradients(together(c, other.in)), in_f64);
    }
  }
  EXPECT_GE(fused, 12);
}

// Without a way back, and then together too.
TEST(ConvNormActOperation, ShowsWhatIsHidden) {
  for (const RowCase& c : kRows) {
    SCOPED_TRACE(c.text());
    for (const int threads : {1, 2, 3}) {
      Pass pass(harness::device(threads), DType::kF32, c);
      const NoGrad no_grad(pass.tape);
      std::vector<Var> shown, expected;
      const Var z = together(c, pass.in, &shown);
      one_by_one(c, pass.in, &expected);
      ASSERT_EQ(shown.size(), expected.size());
      for (std::size_t i = 0; i < shown.size(); ++i) {
        EXPECT_EQ(values_of(shown[i].value()), values_of(expected[i].value())) << i;
      }
      EXPECT_EQ(values_of(z.value()), values_of(shown.back().value()));
      EXPECT_EQ(values_of(together(c, pass.in).value()), values_of(z.value()));
    }
  }
}

// What a row shows is what shorter rows give; so on every device.
BACKEND_TEST(ConvNormActOperation, ShowsWhatShorterRowsGive) {
  const RowCase c{4, 64, 32, 5, 2, 3};
  Backend::for_devices([&](const Device& device, DType type) {
    Pass pass(device, type, c);
    const auto recorded = values_of(together(c, pass.in).value());
    const NoGrad no_grad(pass.tape);
    std::vector<Var> shown;
    together(c, pass.in, &shown);
    ASSERT_EQ(shown.size(), 3u);
    for (std::size_t i = 0; i < 3; ++i) {
      const std::span<const Var> inputs(pass.in.data(), 1 + 4 * (i + 1));
      EXPECT_EQ(values_of(shown[i].value()), values_of(together(c, inputs).value())) << i;
    }
    EXPECT_EQ(values_of(shown.back().value()), recorded);
  });
}

// Who looks at every operation sees each; who wants gradients of what is hidden gets them.
BACKEND_TEST(ConvNormActOperation, IsOneByOneWhereThatShows) {
  const RowCase c{4, 64, 32, 5, 2, 2};
  Backend::for_devices([&](const Device& device, DType type) {
    Pass watched(device, type, c), apart(device, type, c), hidden(device, type, c);
    int seen = 0;
    watched.tape.set_watch([&](const Var&, std::span<const Var>) { ++seen; });
    const auto expected = apart.gradients(one_by_one(c, apart.in));
    EXPECT_EQ(watched.gradients(together(c, watched.in)), expected);
    EXPECT_EQ(seen, 4);
    std::vector<Var> shown;
    EXPECT_EQ(hidden.gradients(together(c, hidden.in, &shown)), expected);
    EXPECT_EQ(hidden.operations(), 4u);
    EXPECT_TRUE(shown.front().requires_grad());
    Pass first(device, type, c), part(device, type, c);
    shown.clear();
    together(c, first.in, &shown);
    const RowCase one{4, 64, 32, 5, 2, 1};
    const auto of_first = first.gradients(shown.front());
    const auto of_part = part.gradients(one_by_one(one, std::span(part.in).first(5)));
    for (std::size_t i = 0; i < 6; ++i) EXPECT_EQ(of_first[i], of_part[i]) << i;
  });
}

// A tensor that is a parameter of two layers has the gradients of both.
BACKEND_TEST(ConvNormActOperation, AddsUpWhatLayersShare) {
  const RowCase c{4, 64, 32, 5, 2, 2};
  Backend::for_devices([&](const Device& device, DType type) {
    for (const std::size_t shared : {1, 2, 3, 4}) {
      SCOPED_TRACE(shared);
      const auto gradients = [&](bool fused) {
        Pass pass(device, type, c);
        std::vector<Var> in = pass.in;
        in[shared + 4] = in[shared];
        const Var z = fused ? together(c, in) : one_by_one(c, in);
        EXPECT_EQ(pass.operations(), 4u);
        return pass.gradients(z);
      };
      EXPECT_EQ(gradients(true), gradients(false));
    }
  });
}

// x, a bias or gamma without a gradient: the others' are what they were.
BACKEND_TEST(ConvNormActOperation, LeavesOutConstants) {
  const RowCase c{4, 64, 32, 5, 2, 2};
  Backend::for_devices([&](const Device& device, DType type) {
    Pass whole(device, type, c);
    const auto expected = whole.gradients(together(c, whole.in));
    for (const std::size_t constant : {0, 6, 7}) {
      Pass pass(device, type, c);
      std::vector<Var> in = pass.in;
      in[constant] = pass.tape.constant(in[constant].value());
      const Var z = together(c, in);
      auto actual = pass.gradients(z);
      for (std::size_t i = 0; i < actual.size(); ++i) {
        if (i == constant + 1) continue;
        EXPECT_EQ(actual[i], expected[i]) << constant << " " << i;
      }
    }
  });
}

// Both ways sum y over the batch's sets: terms of at most the mean of |y|, in at most 170 roundings
// (tests/harness/norm_check.h), and a few for the averages.
BACKEND_TEST(ConvNormActOperation, MovesRunningStatistics) {
  for (const RowCase& c : {RowCase{4, 64, 32, 5, 2, 2}, RowCase{4, 64, 32, 5, 2, 3, 1, 2},
                           RowCase{4, 64, 32, 5, 2, 2, 1, 1, kOdd}}) {
    SCOPED_TRACE(c.text());
    Backend::for_devices([&](const Device& device, DType type) {
      const auto moved = [&](bool fused) {
        Pass pass(device, type, c);
        std::vector<RunningStatistics> running;
        for (std::int64_t i = 0; i < c.layers; ++i) {
          running.push_back(
              {Tensor(device, type, {c.channels}), Tensor(device, type, {c.channels})});
          running.back().mean.fill(0);
          running.back().variance.fill(1);
        }
        fused ? together(c, pass.in, nullptr, running) : one_by_one(c, pass.in, nullptr, running);
        std::vector<std::vector<double>> all;
        for (const RunningStatistics& one : running) {
          all.push_back(values_of(one.mean));
          all.push_back(values_of(one.variance));
        }
        return all;
      };
      const auto actual = moved(true), expected = moved(false);
      if (std::is_same_v<Backend, harness::OnCpu>) {
        EXPECT_EQ(actual, expected);
      }
      const double relative = 2 * harness::gamma_of<float>(180);
      for (std::size_t i = 0; i < actual.size(); i += 2) {
        for (std::size_t j = 0; j < actual[i].size(); ++j) {
          const double variance = expected[i + 1][j], mean = expected[i][j];
          EXPECT_NEAR(actual[i][j], mean, relative * (std::abs(mean) + variance));
          EXPECT_NEAR(actual[i + 1][j], variance, relative * variance);
          const bool still = !c.has_norm(static_cast<std::int64_t>(i) / 2);
          EXPECT_EQ(variance == 1 && mean == 0, still);
        }
      }
    });
  }
}

// Inputs whose values before each ReLU stay clear of its kink.
std::vector<Tensor> clear_inputs_of(const RowCase& c, std::uint64_t seed) {
  std::vector<Tensor> inputs = inputs_of(c, seed);
  std::size_t last = 0;  // of the layer
  for (std::int64_t i = 0; i < c.layers; ++i) {
    last += c.has_norm(i) ? 4 : 2;
    inputs[last].fill(0);
    RowCase part = c;
    part.layers = i + 1;
    Tape tape(harness::device(), DType::kF64);
    const NoGrad no_grad(tape);
    std::vector<Var> in;
    for (std::size_t k = 0; k <= last; ++k) in.push_back(tape.constant(inputs[k]));
    std::vector<Var> below;
    if (i > 0)
      together({c.batch, c.length, c.channels, c.taps, c.padding, i, c.set_channels, c.set_samples,
                c.normalized},
               std::span(in).first(last + 1 - (c.has_norm(i) ? 4 : 2)), &below);
    const ConvNormActParameters p = layers_of(part, in).back();
    Var y = conv1d(below.empty() ? in[0] : below.back(), p.w, p.b, c.padding);
    NormOptions options = c.options();
    options.activation = Activation::kNone;
    if (p.norm) y = norm_act(y, p.norm->gamma, p.norm->beta, options);
    const std::vector<double> values = values_of(y.value());
    std::vector<std::vector<double>> negated(static_cast<std::size_t>(c.channels));
    for (std::size_t k = 0; k < values.size(); ++k) {
      negated[k % negated.size()].push_back(-values[k]);
    }
    std::vector<double> clear;
    for (auto& of_channel : negated) clear.push_back(harness::clear_of(std::move(of_channel)));
    inputs[last] = harness::tensor_of(clear, {c.channels});
  }
  return inputs;
}

TEST(ConvNormActOperation, Gradients) {
  Draw draw(1);
  for (std::uint64_t seed = 0; seed < 14; ++seed) {
    RowCase c{draw.integer(1, 3), draw.integer(14, 22), 32, 5,
              draw.integer(1, 3), draw.integer(1, 3)};
    if (seed % 7 == 1) c.set_channels = draw.pick({4, 8, 16});
    if (seed % 7 == 2) c.set_channels = 32;
    if (seed % 7 == 3) c.set_samples = c.batch;
    if (seed % 7 == 4) c.batch = 4, c.set_samples = 2;
    if (seed % 7 == 5) c.normalized = kNone;
    if (seed % 7 == 6) c.normalized = kOdd;
    harness::expect_gradients(
        [&](Tape& tape, std::span<const Var> in) {
          const std::size_t before = tape.mark().nodes;
          const Var z = together(c, in);
          // All layers together; and nothing where it takes differences.
          EXPECT_EQ(tape.mark().nodes - before, tape.recording() ? 1u : 0u);
          return z;
        },
        clear_inputs_of(c, seed), {.seed = seed, .max_elements = 24, .directions = 4}, c.text());
  }
}

TEST(ConvNormActOperation, RefusesWrongShapes) {
  Tape tape(harness::device(), DType::kF64);
  const auto row = [&](Shape x, Shape w, Shape b, Shape gamma, const NormOptions& options = {},
                       RunningStatistics* running = nullptr) {
    return error_of([&] {
      const Var g = tape.make(gamma);
      const ConvNormActParameters fits{tape.make({5, 6, 6}), tape.make({6}), {}};
      const std::vector<ConvNormActParameters> layers{
          fits, {tape.make(w), tape.make(b), {{g, g, running}}}};
      conv_norm_act(tape.make(x), layers, 2, options);
    });
  };
  EXPECT_EQ(row({4, 9, 6}, {5, 6, 6}, {6}, {6}), "no error");
  EXPECT_EQ(row({4, 9, 6}, {3, 6, 7}, {7}, {7}), "no error");
  EXPECT_EQ(row({9, 6}, {5, 6, 6}, {6}, {6}),
            "conv_norm_act: expected x of shape [N, L, C], got [9, 6]");
  EXPECT_EQ(row({4, 9, 6}, {5, 7, 6}, {6}, {6}),
            "conv_norm_act: weight expects C_in = 7, got x of C = 6");
  EXPECT_EQ(row({4, 9, 6}, {5, 6, 7}, {6}, {7}),
            "conv_norm_act: expected a bias of shape [7], got [6]");
  EXPECT_EQ(row({4, 9, 6}, {2, 6, 6}, {6}, {6}),
            "conv_norm_act: expected a padding from 0 to k - 1 = 1, got 2");
  EXPECT_EQ(row({4, 9, 6}, {20, 6, 6}, {6}, {6}),
            "conv_norm_act: a kernel of 20 with padding 2 does not fit into a sequence of 9");
  EXPECT_EQ(row({4, 9, 6}, {5, 6, 6}, {6}, {5}),
            "conv_norm_act: expected gamma and beta of shape [6], got [5] and [5]");
  EXPECT_EQ(row({4, 9, 6}, {5, 6, 6}, {6}, {6}, {4, 1}),
            "conv_norm_act: sets of 4 channels do not divide 6 channels");
  EXPECT_EQ(row({4, 9, 6}, {5, 6, 6}, {6}, {6}, {1, 3}),
            "conv_norm_act: sets of 3 samples do not divide a batch of 4");
  RunningStatistics running{Tensor::zeros(harness::device(), DType::kF64, {6}),
                            Tensor::zeros(harness::device(), DType::kF64, {5})};
  EXPECT_EQ(row({4, 9, 6}, {5, 6, 6}, {6}, {6}, {}, &running),
            "conv_norm_act: expected a mean and a variance of shape [6], got [6] and [5]");
  EXPECT_EQ(error_of([&] {
              conv_norm_act(tape.make({4, 9, 6}), {}, 2, {});
            }),
            "conv_norm_act: expected at least one layer");
}

}  // namespace
}  // namespace sidechannel
