// The operation against finite differences, and what it refuses.

#include <gtest/gtest.h>

#include "engine/gradcheck.h"
#include "tests/harness/conv_norm_act_pass.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::inputs_of;
using harness::layers_of;
using harness::RowCase;
using harness::together;
using harness::values_of;
using enum harness::Normalized;

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
          Var z = together(c, in);
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
