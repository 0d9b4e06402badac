#include "models/probe.h"

#include <gtest/gtest.h>

#include "tests/harness/op_check.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::values_of;

// The probe's pre-activations, for the distance to the nearest kink.
double nearest_kink(const ParameterList& list, const Tensor& z) {
  Tape tape(harness::device(), DType::kF64);
  const auto& p = list.parameters();
  double nearest = 1e9;
  Var rows = tape.constant(z.reshape({z.shape()[0] * z.shape()[1], z.shape()[2]}));
  for (std::size_t layer : {0, 1}) {
    rows = linear(rows, tape.constant(p[2 * layer].value), tape.constant(p[2 * layer + 1].value));
    for (double value : values_of(rows.value())) nearest = std::min(nearest, std::abs(value));
    rows = relu(rows);
  }
  return nearest;
}

TEST(Probe, IsAPerceptronOnEveryPosition) {
  ParameterList list(harness::device(), DType::kF64, 1, Stream{2});
  const Probe probe(list, "probe", 5, 7);
  const auto& p = list.parameters();
  ASSERT_EQ(p.size(), 6u);
  const std::vector<std::string> names = {"probe.0.weight", "probe.0.bias",   "probe.1.weight",
                                          "probe.1.bias",   "probe.2.weight", "probe.2.bias"};
  const std::vector<Shape> shapes = {{7, 5}, {7}, {7, 7}, {7}, {1, 7}, {1}};
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(p[i].name, names[i]);
    EXPECT_TRUE(p[i].value.shape() == shapes[i]) << p[i].name;
  }
  Tape tape(harness::device(), DType::kF64);
  const Tensor z = Draw(2).tensor({3, 4, 5});
  const Var y = probe(tape.constant(z));
  ASSERT_TRUE((y.shape() == Shape{3, 4, 1}));
  // By hand, one position after the other.
  const auto layer = [&](std::size_t i, const std::vector<double>& in, bool relu) {
    const auto w = values_of(p[2 * i].value);
    std::vector<double> out = values_of(p[2 * i + 1].value);
    for (std::size_t o = 0; o < out.size(); ++o) {
      for (std::size_t j = 0; j < in.size(); ++j) out[o] += w[o * in.size() + j] * in[j];
      if (relu) out[o] = std::max(out[o], 0.0);
    }
    return out;
  };
  const auto inputs = values_of(z);
  for (std::size_t at = 0; at < 12; ++at) {
    const std::vector<double> in(inputs.begin() + static_cast<std::ptrdiff_t>(5 * at),
                                 inputs.begin() + static_cast<std::ptrdiff_t>(5 * at + 5));
    const auto expected = layer(2, layer(1, layer(0, in, true), true), false);
    EXPECT_NEAR(y.data<double>()[at], expected[0], 1e-14);
  }
}

TEST(Probe, Gradients) {
  Draw draw(3);
  for (std::uint64_t i = 0; i < 100; ++i) {
    const std::int64_t channels = draw.integer(1, 5);
    const std::int64_t width = draw.integer(1, 6);
    const Shape shape{draw.integer(1, 2), draw.integer(1, 4), channels};
    std::uint64_t seed = 1000 * i;
    Tensor z;
    const auto clear = [&] {
      ParameterList list(harness::device(), DType::kF64, ++seed);
      const Probe probe(list, "probe", channels, width);
      z = draw.tensor(shape);
      return nearest_kink(list, z) > 1e-3;
    };
    while (!clear()) {
    }
    ParameterList list(harness::device(), DType::kF64, seed);
    const Probe probe(list, "probe", channels, width);
    harness::expect_gradients([&](Tape& tape) { return probe(tape.constant(z)); }, list);
    harness::expect_gradients([&](Tape&, std::span<const Var> in) { return probe(in[0]); },
                              std::vector{z});
  }
}

}  // namespace
}  // namespace sidechannel
