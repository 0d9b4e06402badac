#include "kernels/linear.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>

#include "engine/gradcheck.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::clear_of;
using harness::Draw;
using harness::error_of;
using harness::expect_gradient;
using harness::expect_near;
using harness::narrowed;
using harness::Reference;
using kernels::CpuQueue;
using kernels::GradOut;
using kernels::LinearDims;
using enum kernels::Activation;

// Several blocks of rows and of outputs, whole and not; a probe's three layers, with rows that do
// not fill the last tile; one output over rows of every width that a warp is divided by.
const std::vector<LinearDims> kLargeDims = {
    {300, 32, 130, kRelu}, {257, 65, 64, kNone},  {129, 256, 1, kNone}, {1, 100, 200, kRelu},
    {500, 1, 3, kRelu},    {128, 64, 128, kRelu}, {601, 32, 16, kRelu}, {601, 16, 16, kRelu},
    {601, 16, 1, kNone},   {1025, 64, 1, kRelu},  // two tiles of rows and one row more
    {40, 132, 1, kNone},                          // wider than a tile's 128
    {40, 31, 1, kNone},                           // no packs; a warp's lanes but one
    {70, 33, 1, kRelu},                           // one lane takes two columns
    {9, 2, 1, kNone},                             // two lanes a row
    {300, 8, 132, kNone},                         // db in two tiles of columns
};

std::vector<LinearDims> small_dims(int count) {
  std::vector<LinearDims> all = {
      {1, 1, 1, kNone}, {1, 1, 1, kRelu}, {5, 1, 3, kRelu}, {1, 7, 1, kNone}, {13, 3, 17, kRelu},
  };
  Draw draw(5);
  while (static_cast<int>(all.size()) < count) {
    all.push_back({draw.pick({1, 2, 3, 5, 8, 11, 17, 33}), draw.pick({1, 2, 3, 4, 7, 8, 13, 16}),
                   draw.pick({1, 2, 3, 5, 8, 9, 15, 17}), draw.integer(0, 1) == 1 ? kRelu : kNone});
  }
  return all;
}

std::string text(const LinearDims& d) {
  return fmt::format("rows={} in={} out={} relu={}", d.rows, d.in, d.out, d.activation == kRelu);
}

// Contents whose outputs stay clear of the ReLU's kink, by the choice of the bias.
struct LinearCase {
  std::vector<double> x, w, b, dy;
};

template <class T>
LinearCase make_linear_case(const LinearDims& d, std::uint64_t seed) {
  Draw draw(seed);
  const auto rounded = [&](std::int64_t size) {
    const auto values = draw.normals<T>(size);
    return std::vector<double>(values.begin(), values.end());
  };
  LinearCase c{rounded(d.rows * d.in), rounded(d.out * d.in), {}, rounded(d.rows * d.out)};
  for (std::int64_t o = 0; o < d.out; ++o) {
    std::vector<double> negated;
    for (std::int64_t r = 0; r < d.rows; ++r) {
      double sum = 0;
      for (std::int64_t i = 0; i < d.in; ++i) {
        sum -= c.x[static_cast<std::size_t>(r * d.in + i)] *
               c.w[static_cast<std::size_t>(o * d.in + i)];
      }
      negated.push_back(sum);
    }
    c.b.push_back(static_cast<T>(clear_of(negated)));
  }
  return c;
}

// `operand_roundings`: how many roundings of T it counts for that products are taken of rounded
// factors.
template <class T, template <class> class Buffer>
void check_linear(auto& queue, const LinearDims& d, std::int64_t operand_roundings = 0) {
  SCOPED_TRACE(text(d));
  const LinearCase c = make_linear_case<T>(d, 7);
  Reference y(d.rows * d.out), dx(d.rows * d.in), dw(d.out * d.in), db(d.out);
  for (std::int64_t r = 0; r < d.rows; ++r) {
    for (std::int64_t o = 0; o < d.out; ++o) {
      const std::int64_t at = r * d.out + o;
      y.add(at, c.b[static_cast<std::size_t>(o)]);
      for (std::int64_t i = 0; i < d.in; ++i) {
        y.add(at, c.x[static_cast<std::size_t>(r * d.in + i)] *
                      c.w[static_cast<std::size_t>(o * d.in + i)]);
      }
      double& value = y.value[static_cast<std::size_t>(at)];
      if (d.activation == kRelu) value = std::max(value, 0.0);
    }
  }
  const Buffer<T> x(narrowed<T>(c.x)), w(narrowed<T>(c.w)), b(narrowed<T>(c.b)),
      dy(narrowed<T>(c.dy));
  Buffer<T> out(d.rows * d.out);
  run(queue, kernels::LinearForward<T>{
                 .dims = d, .x = x.data(), .w = w.data(), .b = b.data(), .y = out.data()});
  expect_near<T>("y", out.values(), y, d.in + 1 + operand_roundings);
  EXPECT_TRUE(out.walls_stand());

  // The mask is that of the kernel's own output: rounded factors may move it across the kink.
  const auto out_values = out.values();
  for (std::int64_t r = 0; r < d.rows; ++r) {
    for (std::int64_t o = 0; o < d.out; ++o) {
      const auto at = static_cast<std::size_t>(r * d.out + o);
      const double g = d.activation == kNone || out_values[at] > 0 ? c.dy[at] : 0;
      db.add(o, g);
      for (std::int64_t i = 0; i < d.in; ++i) {
        dx.add(r * d.in + i, g * c.w[static_cast<std::size_t>(o * d.in + i)]);
        dw.add(o * d.in + i, g * c.x[static_cast<std::size_t>(r * d.in + i)]);
      }
    }
  }
  using Out = GradOut<T>;
  const auto backward = [&](Out to_x, Out to_w, Out to_b) {
    run(queue, kernels::LinearBackward<T>{.dims = d,
                                          .x = x.data(),
                                          .w = w.data(),
                                          .y = out.data(),
                                          .dy = dy.data(),
                                          .dx = to_x,
                                          .dw = to_w,
                                          .db = to_b});
  };
  const std::int64_t of_dx = d.out + operand_roundings;
  const std::int64_t of_dw = d.rows + operand_roundings;
  expect_gradient<Buffer<T>>("dx", dx, of_dx, [&](Out a) { backward(a, {}, {}); });
  expect_gradient<Buffer<T>>("dw", dw, of_dw, [&](Out a) { backward({}, a, {}); });
  expect_gradient<Buffer<T>>("db", db, d.rows, [&](Out a) { backward({}, {}, a); });
  Buffer<T> all_x(d.rows * d.in), all_w(d.out * d.in), all_b(d.out);
  backward({all_x.data()}, {all_w.data()}, {all_b.data()});
  expect_near<T>("dx", all_x.values(), dx, of_dx);
  expect_near<T>("dw", all_w.values(), dw, of_dw);
  expect_near<T>("db", all_b.values(), db, d.rows);
  EXPECT_TRUE(all_x.walls_stand() && all_w.walls_stand() && all_b.walls_stand());
  backward({}, {}, {});
}

BACKEND_TEST(Linear, AgreesWithTheDefinition) {
  Backend::for_types([]<class T>(auto& queue) {
    std::vector<LinearDims> all = small_dims(120);
    all.insert(all.end(), kLargeDims.begin(), kLargeDims.end());
    for (const LinearDims& dims : all) check_linear<T, Backend::template Buffer>(queue, dims);
    Backend::for_alignments([&] {
      for (const LinearDims& dims : {LinearDims{50, 64, 32, kRelu}, LinearDims{50, 32, 1, kRelu},
                                     LinearDims{50, 32, 8, kNone}}) {
        check_linear<T, Backend::template Buffer>(queue, dims);
      }
    });
  });
}

#if SIDECHANNEL_HAS_CUDA
class CudaLinearInTf32 : public harness::CudaTest {};

// TF32 keeps 10 bits of a factor's mantissa; where it is cut off instead of rounded, that is off by
// 2^-10, as much as 2^14 roundings in f32. Two factors.
TEST_F(CudaLinearInTf32, AgreesWithTheDefinition) {
  std::vector<LinearDims> all = small_dims(60);
  all.insert(all.end(), kLargeDims.begin(), kLargeDims.end());
  for (const LinearDims& dims : all) {
    check_linear<float, harness::DeviceBuffer>(harness::cuda_queue(kernels::Precision::kTf32), dims,
                                               2 << 14);
  }
}
#endif

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

BACKEND_TEST(Linear, SameBitsEveryTime) {
  for (const LinearDims& d : kLargeDims) {
    using Buffer = harness::BufferOn<Backend, float>;
    const LinearCase c = make_linear_case<float>(d, 3);
    const Buffer x(narrowed<float>(c.x)), w(narrowed<float>(c.w)), b(narrowed<float>(c.b)),
        dy(narrowed<float>(c.dy));
    Backend::expect_same_bits(text(d), [&](auto& queue) {
      Buffer y(d.rows * d.out), dx(d.rows * d.in), dw(d.out * d.in), db(d.out);
      run(queue, kernels::LinearForward<float>{
                     .dims = d, .x = x.data(), .w = w.data(), .b = b.data(), .y = y.data()});
      run(queue, kernels::LinearBackward<float>{.dims = d,
                                                .x = x.data(),
                                                .w = w.data(),
                                                .y = y.data(),
                                                .dy = dy.data(),
                                                .dx = {dx.data()},
                                                .dw = {dw.data()},
                                                .db = {db.data()}});
      return harness::values_of_all({&y, &dx, &dw, &db});
    });
  }
}

// A dead unit that hides a NaN would let a failed training go on.
BACKEND_TEST(Linear, LetsNaNThrough) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const std::int64_t out : {1, 6}) {
      for (const kernels::Activation activation : {kNone, kRelu}) {
        using Buffer = harness::BufferOn<Backend, T>;
        const Buffer x(std::vector<T>{1, std::numeric_limits<T>::quiet_NaN()}),
            w(std::vector<T>(static_cast<std::size_t>(2 * out), 1)),
            b(std::vector<T>(static_cast<std::size_t>(out), 0));
        Buffer y(out);
        run(queue, kernels::LinearForward<T>{.dims = {1, 2, out, activation},
                                             .x = x.data(),
                                             .w = w.data(),
                                             .b = b.data(),
                                             .y = y.data()});
        for (const T value : y.values()) EXPECT_TRUE(std::isnan(value));
      }
    }
  });
}

TEST(Linear, Gradients) {
  std::uint64_t seed = 0;
  for (const LinearDims& d : small_dims(150)) {
    const LinearCase c = make_linear_case<double>(d, ++seed);
    GradientCheckOptions options;
    options.seed = seed;
    const GradientCheck check = check_gradients(
        [&](Tape&, std::span<const Var> in) { return linear(in[0], in[1], in[2], d.activation); },
        std::vector{harness::tensor_of(c.x, {d.rows, d.in}), harness::tensor_of(c.w, {d.out, d.in}),
                    harness::tensor_of(c.b, {d.out})},
        options);
    EXPECT_TRUE(check.passed()) << text(d) << "\n" << check.message();
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
