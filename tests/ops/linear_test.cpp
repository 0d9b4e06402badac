#include "kernels/linear.h"

#include <gtest/gtest.h>

#include <Eigen/Core>

#include "engine/gradcheck.h"
#include "tests/harness/linear_check.h"

namespace sidechannel {
namespace {

using harness::error_of;
using harness::narrowed;
using kernels::CpuQueue;
using kernels::GradOut;
using kernels::LinearDims;
using enum kernels::Activation;

TEST(Linear, KernelsAgreeWithTheDefinition) {
  for (const LinearDims& dims : harness::linear_dims(120))
    harness::check_linear<float>(harness::queue(2), dims);
  for (const LinearDims& dims : harness::kLargeLinearDims)
    harness::check_linear<float>(harness::queue(2), dims);
  for (const LinearDims& dims : harness::linear_dims(40))
    harness::check_linear<double>(harness::queue(2), dims);
}

// At the size of the probes' layers, where the definition would take long.
TEST(Linear, KernelsAgreeWithEigen) {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const LinearDims d{520, 250, 130, kNone};
  harness::Draw draw(17);
  const auto drawn = [&](std::int64_t rows, std::int64_t columns) {
    const auto values = draw.normals<float>(rows * columns);
    return Matrix(Eigen::Map<const Eigen::Matrix<float, -1, -1, Eigen::RowMajor>>(values.data(),
                                                                                  rows, columns)
                      .cast<double>());
  };
  const Matrix x = drawn(d.rows, d.in), w = drawn(d.out, d.in), b = drawn(1, d.out),
               dy = drawn(d.rows, d.out);
  const auto as_float = [](const Matrix& m) {
    return narrowed<float>(std::vector<double>(m.data(), m.data() + m.size()));
  };
  const auto reference = [](const Matrix& value, const Matrix& magnitude) {
    harness::Reference result(value.size());
    result.value.assign(value.data(), value.data() + value.size());
    result.magnitude.assign(magnitude.data(), magnitude.data() + magnitude.size());
    return result;
  };
  const auto product = [&](const Matrix& left, const Matrix& right) {
    return reference(left * right, left.cwiseAbs() * right.cwiseAbs());
  };
  std::vector<float> y(static_cast<std::size_t>(dy.size())), dx(static_cast<std::size_t>(x.size())),
      dw(static_cast<std::size_t>(w.size())), db(static_cast<std::size_t>(b.size()));
  CpuQueue& queue = harness::queue(2);
  run(queue, kernels::LinearForward<float>{.dims = d,
                                           .x = as_float(x).data(),
                                           .w = as_float(w).data(),
                                           .b = as_float(b).data(),
                                           .y = y.data()});
  run(queue, kernels::LinearBackward<float>{.dims = d,
                                            .x = as_float(x).data(),
                                            .w = as_float(w).data(),
                                            .y = y.data(),
                                            .dy = as_float(dy).data(),
                                            .dx = {dx.data()},
                                            .dw = {dw.data()},
                                            .db = {db.data()}});
  const Matrix ones = Matrix::Ones(d.rows, 1);
  harness::expect_near<float>(
      "y", y,
      reference(x * w.transpose() + ones * b,
                x.cwiseAbs() * w.transpose().cwiseAbs() + ones * b.cwiseAbs()),
      d.in + 1);
  harness::expect_near<float>("dx", dx, product(dy, w), d.out);
  harness::expect_near<float>("dw", dw, product(dy.transpose(), x), d.rows);
  harness::expect_near<float>("db", db, product(ones.transpose(), dy), d.rows);
}

TEST(Linear, SameBitsWithAnyNumberOfThreads) {
  for (const LinearDims& d : harness::kLargeLinearDims) {
    const harness::LinearCase c = harness::make_linear_case<float>(d, 3);
    const auto x = narrowed<float>(c.x), w = narrowed<float>(c.w), b = narrowed<float>(c.b),
               dy = narrowed<float>(c.dy);
    harness::expect_same_bits(harness::text(d), [&](CpuQueue& queue) {
      std::vector<float> all(dy.size() + x.size() + w.size() + b.size());
      float* dx = all.data() + dy.size();
      float* dw = dx + x.size();
      run(queue, kernels::LinearForward<float>{
                     .dims = d, .x = x.data(), .w = w.data(), .b = b.data(), .y = all.data()});
      run(queue, kernels::LinearBackward<float>{.dims = d,
                                                .x = x.data(),
                                                .w = w.data(),
                                                .y = all.data(),
                                                .dy = dy.data(),
                                                .dx = {dx},
                                                .dw = {dw},
                                                .db = {dw + w.size()}});
      return all;
    });
  }
}

TEST(Linear, LetsNaNThrough) {
  const std::vector<float> x = {1, std::numeric_limits<float>::quiet_NaN()}, w(12, 1), b(6, 0);
  for (const kernels::Activation activation : {kNone, kRelu}) {
    std::vector<float> y(6);
    run(harness::queue(), kernels::LinearForward<float>{.dims = {1, 2, 6, activation},
                                                        .x = x.data(),
                                                        .w = w.data(),
                                                        .b = b.data(),
                                                        .y = y.data()});
    for (float value : y) EXPECT_TRUE(std::isnan(value));
  }
}

TEST(Linear, Gradients) {
  std::uint64_t seed = 0;
  for (const LinearDims& d : harness::linear_dims(150)) {
    const harness::LinearCase c = harness::make_linear_case<double>(d, ++seed);
    GradientCheckOptions options;
    options.seed = seed;
    const GradientCheck check = check_gradients(
        [&](Tape&, std::span<const Var> in) { return linear(in[0], in[1], in[2], d.activation); },
        std::vector{harness::tensor_of(c.x, {d.rows, d.in}), harness::tensor_of(c.w, {d.out, d.in}),
                    harness::tensor_of(c.b, {d.out})},
        options);
    EXPECT_TRUE(check.passed()) << harness::text(d) << "\n" << check.message();
  }
}

TEST(Linear, RefusesWrongShapes) {
  Tape tape(harness::device(), DType::kF64);
  const auto dense = [&](Shape x, Shape w, Shape b) {
    return error_of([&] { linear(tape.make(x), tape.make(w), tape.make(b)); });
  };
  EXPECT_EQ(dense({7, 3}, {4, 3}, {4}), "no error");
  EXPECT_EQ(dense({7, 3, 1}, {4, 3}, {4}), "linear: expected x of shape [rows, in], got [7, 3, 1]");
  EXPECT_EQ(dense({7, 3}, {3, 4}, {4}), "linear: expected a weight of shape [out, 3], got [3, 4]");
  EXPECT_EQ(dense({7, 3}, {4}, {4}), "linear: expected a weight of shape [out, 3], got [4]");
  EXPECT_EQ(dense({7, 3}, {4, 3}, {3}), "linear: expected a bias of shape [4], got [3]");
}

}  // namespace
}  // namespace sidechannel
