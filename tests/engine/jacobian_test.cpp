#include "engine/jacobian.h"

#include <gtest/gtest.h>

#include "models/localizer.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::values_of;

using Rows = std::vector<std::vector<double>>;

Rows rows_of(const Tensor& x, const std::function<Var(const Var&)>& f,
             const std::vector<std::int64_t>& outputs) {
  Rows rows;
  jacobian_rows(x, f, outputs, [&](std::size_t row, std::span<const double> values) {
    EXPECT_EQ(row, rows.size());
    rows.emplace_back(values.begin(), values.end());
  });
  return rows;
}

// Two channels that hear each other over three positions, and a square, so that rows differ by x.
Var small(const Var& x, const Tensor& w) {
  Tape& tape = x.tape();
  const Var y =
      conv1d(x, tape.constant(w), tape.constant(Tensor::zeros(x.device(), x.dtype(), {2})), 1);
  NormOptions options;
  options.activation = Activation::kMish;
  return norm_act(
      y, tape.constant(Tensor::from(x.device(), harness::array_of({2, 3}, x.dtype(), {2}))),
      tape.constant(Tensor::zeros(x.device(), x.dtype(), {2})), options);
}

TEST(Jacobian, IsThatOfDifferences) {
  Draw draw(1);
  const Tensor x = draw.tensor({1, 6, 2}), w = draw.tensor({3, 2, 2});
  std::vector<std::int64_t> all(12);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int64_t>(i);
  const Rows rows = rows_of(
      x, [&](const Var& v) { return small(v, w); }, all);
  ASSERT_EQ(rows.size(), 12u);
  const auto answer = [&](std::size_t at, double by) {
    std::vector<double> values = values_of(x);
    values[at] += by;
    Tape tape(harness::device(), DType::kF64);
    return values_of(small(tape.constant(harness::tensor_of(values, x.shape())), w).value());
  };
  constexpr double kStep = 1e-5;
  for (std::size_t i = 0; i < 12; ++i) {
    const std::vector<double> up = answer(i, kStep), down = answer(i, -kStep);
    for (std::size_t o = 0; o < 12; ++o) {
      EXPECT_NEAR(rows[o][i], (up[o] - down[o]) / (2 * kStep), 1e-8) << o << ", " << i;
    }
  }
}

// More rows than are on the tape at once, out of order, some twice: each is itself.
BACKEND_TEST(Jacobian, RowsAreThemselves) {
  Backend::for_devices([](const Device& device, DType dtype) {
    Draw draw(2);
    const auto on_device = [&](Shape shape) {
      return Tensor::from(device, harness::array_of(values_of(draw.tensor(shape)), dtype, shape));
    };
    const Tensor x = on_device({2, 20, 2}), w = on_device({3, 2, 2});
    const auto f = [&](const Var& v) { return small(v, w); };
    std::vector<std::int64_t> outputs;
    for (std::int64_t i = 0; i < 37; ++i) outputs.push_back(i * 29 % 80);
    const Rows together = rows_of(x, f, outputs);
    ASSERT_EQ(together.size(), outputs.size());
    for (std::size_t i = 0; i < outputs.size(); i += 9) {
      EXPECT_EQ(rows_of(x, f, {outputs[i]})[0], together[i]) << outputs[i];
    }
  });
}

TEST(Jacobian, LeavesParametersAlone) {
  const Device& device = harness::device();
  Localizer net(device, DType::kF64, {.depth = 4, .channels = 4, .kernel_size = 3}, 1);
  for (Parameter& parameter : net.parameters().parameters()) parameter.grad.fill(7);
  const Tensor x = Draw(1).tensor({1, 12, 1});
  rows_of(x, [&](const Var& v) { return net(v, Statistics::kMinibatch); }, {0, 5});
  for (const Parameter& parameter : net.parameters().parameters()) {
    for (const double value : values_of(parameter.grad)) EXPECT_EQ(value, 7);
  }
}

TEST(Jacobian, RefusesWhatThereIsNot) {
  const auto rows = [](Shape shape, std::int64_t output) {
    const Tensor x = Draw(1).tensor(shape);
    return error_of([&] { rows_of(x, [](const Var& v) { return relu(v); }, {output}); });
  };
  EXPECT_EQ(rows({2, 3}, 0), "jacobian: expected x of shape [S, L, C], got [2, 3]");
  EXPECT_EQ(rows({1, 3, 2}, 6), "jacobian: no output 6 among 6");
  EXPECT_EQ(rows({1, 3, 2}, -1), "jacobian: no output -1 among 6");
}

}  // namespace
}  // namespace sidechannel
