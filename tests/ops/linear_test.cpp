#include "kernels/linear.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <Eigen/Core>
#include <algorithm>

#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::BufferOn;
using harness::clear_of;
using harness::Draw;
using harness::error_of;
using harness::expect_gradient;
using harness::expect_near;
using harness::narrowed;
using harness::Reference;
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
  LinearDims dims;
  std::vector<double> x, w, b, dy;
};

// The buffers of such a case, and its calls on them.
template <class Backend, class T>
struct Buffers {
  LinearDims dims;
  BufferOn<Backend, T> x, w, b, dy, y, dx, dw, db;

  explicit Buffers(const LinearCase& c)
      : dims(c.dims),
        x(narrowed<T>(c.x)),
        w(narrowed<T>(c.w)),
        b(narrowed<T>(c.b)),
        dy(narrowed<T>(c.dy)),
        y(dims.rows * dims.out),
        dx(dims.rows * dims.in),
        dw(dims.out * dims.in),
        db(dims.out) {}

  kernels::LinearForward<T> forward() {
    return {.dims = dims, .x = x.data(), .w = w.data(), .b = b.data(), .y = y.data()};
  }
  kernels::LinearBackward<T> backward(GradOut<T> to_x, GradOut<T> to_w, GradOut<T> to_b) {
    return {.dims = dims,
            .x = x.data(),
            .w = w.data(),
            .y = y.data(),
            .dy = dy.data(),
            .dx = to_x,
            .dw = to_w,
            .db = to_b};
  }
};

template <class T>
LinearCase make_linear_case(const LinearDims& d, std::uint64_t seed) {
  Draw draw(seed);
  const auto rounded = [&](std::int64_t size) { return harness::widened(draw.normals<T>(size)); };
  LinearCase c{d, rounded(d.rows * d.in), rounded(d.out * d.in), {}, rounded(d.rows * d.out)};
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
template <class Backend, class T>
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
  using Buffer = BufferOn<Backend, T>;
  using Out = GradOut<T>;
  Buffers<Backend, T> b(c);
  run(queue, b.forward());
  expect_near<T>("y", b.y.values(), y, d.in + 1 + operand_roundings);
  EXPECT_TRUE(b.y.walls_stand());

  // The mask is that of the kernel's own output: rounded factors may move it across the kink.
  const auto out_values = b.y.values();
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
  const auto backward = [&](Out to_x, Out to_w, Out to_b) {
    run(queue, b.backward(to_x, to_w, to_b));
  };
  const std::int64_t of_dx = d.out + operand_roundings;
  const std::int64_t of_dw = d.rows + operand_roundings;
  expect_gradient<Buffer>("dx", dx, of_dx, [&](Out a) { backward(a, {}, {}); });
  expect_gradient<Buffer>("dw", dw, of_dw, [&](Out a) { backward({}, a, {}); });
  expect_gradient<Buffer>("db", db, d.rows, [&](Out a) { backward({}, {}, a); });
  backward({b.dx.data()}, {b.dw.data()}, {b.db.data()});
  expect_near<T>("dx", b.dx.values(), dx, of_dx);
  expect_near<T>("dw", b.dw.values(), dw, of_dw);
  expect_near<T>("db", b.db.values(), db, d.rows);
  EXPECT_TRUE(b.dx.walls_stand() && b.dw.walls_stand() && b.db.walls_stand());
  backward({}, {}, {});
}

BACKEND_TEST(Linear, AgreesWithTheDefinition) {
  Backend::for_types([]<class T>(auto& queue) {
    std::vector<LinearDims> all = small_dims(120);
    all.insert(all.end(), kLargeDims.begin(), kLargeDims.end());
    for (const LinearDims& dims : all) check_linear<Backend, T>(queue, dims);
    Backend::for_alignments([&] {
      for (const LinearDims& dims : {LinearDims{50, 64, 32, kRelu}, LinearDims{50, 32, 1, kRelu},
                                     LinearDims{50, 32, 8, kNone}}) {
        check_linear<Backend, T>(queue, dims);
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
    check_linear<harness::OnCuda, float>(harness::cuda_queue(kernels::Precision::kTf32), dims,
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
  const auto numbers = [](const Matrix& m) {
    return std::vector<double>(m.data(), m.data() + m.size());
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
  Buffers<harness::OnCpu, float> on({d, numbers(x), numbers(w), numbers(b), numbers(dy)});
  run(harness::queue(2), on.forward());
  run(harness::queue(2), on.backward({on.dx.data()}, {on.dw.data()}, {on.db.data()}));
  const Matrix ones = Matrix::Ones(d.rows, 1);
  expect_near<float>("y", on.y.values(),
                     reference(x * w.transpose() + ones * b,
                               x.cwiseAbs() * w.transpose().cwiseAbs() + ones * b.cwiseAbs()),
                     d.in + 1);
  expect_near<float>("dx", on.dx.values(), product(dy, w), d.out);
  expect_near<float>("dw", on.dw.values(), product(dy.transpose(), x), d.rows);
  expect_near<float>("db", on.db.values(), product(ones.transpose(), dy), d.rows);
}

BACKEND_TEST(Linear, SameBitsEveryTime) {
  for (const LinearDims& d : kLargeDims) {
    const LinearCase c = make_linear_case<float>(d, 3);
    Backend::expect_same_bits(text(d), [&](auto& queue) {
      Buffers<Backend, float> b(c);
      run(queue, b.forward());
      run(queue, b.backward({b.dx.data()}, {b.dw.data()}, {b.db.data()}));
      return harness::values_of_all({&b.y, &b.dx, &b.dw, &b.db});
    });
  }
}

// A dead unit that hides a NaN would let a failed training go on.
BACKEND_TEST(Linear, LetsNaNThrough) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const std::int64_t out : {1, 6}) {
      for (const kernels::Activation activation : {kNone, kRelu}) {
        const auto size = static_cast<std::size_t>(out);
        Buffers<Backend, T> b({{1, 2, out, activation},
                               {1, std::numeric_limits<double>::quiet_NaN()},
                               std::vector<double>(2 * size, 1),
                               std::vector<double>(size, 0),
                               {}});
        run(queue, b.forward());
        for (const T value : b.y.values()) EXPECT_TRUE(std::isnan(value));
      }
    }
  });
}

TEST(Linear, Gradients) {
  std::uint64_t seed = 0;
  for (const LinearDims& d : small_dims(150)) {
    const LinearCase c = make_linear_case<double>(d, ++seed);
    harness::expect_gradients(
        [&](Tape&, std::span<const Var> in) { return linear(in[0], in[1], in[2], d.activation); },
        std::vector{harness::tensor_of(c.x, {d.rows, d.in}), harness::tensor_of(c.w, {d.out, d.in}),
                    harness::tensor_of(c.b, {d.out})},
        {.seed = seed}, text(d));
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
