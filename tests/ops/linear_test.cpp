#include "kernels/linear.h"

#include <gtest/gtest.h>

#include "engine/gradcheck.h"
#include "tests/harness/op_check.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::narrowed;
using harness::Reference;
using harness::Walled;
using kernels::CpuQueue;
using kernels::GradOut;
using kernels::LinearDims;

// Several blocks of rows and of outputs, whole and not.
const std::vector<LinearDims> kLargeDims = {
    {300, 32, 130, true}, {257, 65, 64, false}, {129, 256, 1, false},
    {1, 100, 200, true},  {500, 1, 3, true},    {128, 64, 128, true},
};

std::vector<LinearDims> generated(int count) {
  std::vector<LinearDims> all = {
      {1, 1, 1, false}, {1, 1, 1, true}, {5, 1, 3, true}, {1, 7, 1, false}, {13, 3, 17, true},
  };
  Draw draw(5);
  while (static_cast<int>(all.size()) < count) {
    all.push_back({draw.pick({1, 2, 3, 5, 8, 11, 17, 33}), draw.pick({1, 2, 3, 4, 7, 8, 13, 16}),
                   draw.pick({1, 2, 3, 5, 8, 9, 15, 17}), draw.integer(0, 1) == 1});
  }
  return all;
}

std::string text(const LinearDims& d) {
  return fmt::format("rows={} in={} out={} relu={}", d.rows, d.in, d.out, d.relu);
}

// Contents whose outputs stay clear of the ReLU's kink, by the choice of the bias.
struct Case {
  std::vector<double> x, w, b, dy;
};

template <class T>
Case make_case(const LinearDims& d, std::uint64_t seed) {
  Draw draw(seed);
  const auto rounded = [&](std::int64_t size) {
    const auto values = draw.normals<T>(size);
    return std::vector<double>(values.begin(), values.end());
  };
  Case c{rounded(d.rows * d.in), rounded(d.out * d.in), {}, rounded(d.rows * d.out)};
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
    c.b.push_back(static_cast<T>(harness::clear_of(negated)));
  }
  return c;
}

template <class T>
void check_kernels(const LinearDims& d) {
  SCOPED_TRACE(text(d));
  const Case c = make_case<T>(d, 7);
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
      if (d.relu) value = std::max(value, 0.0);
      const double g = !d.relu || value > 0 ? c.dy[static_cast<std::size_t>(at)] : 0;
      db.add(o, g);
      for (std::int64_t i = 0; i < d.in; ++i) {
        dx.add(r * d.in + i, g * c.w[static_cast<std::size_t>(o * d.in + i)]);
        dw.add(o * d.in + i, g * c.x[static_cast<std::size_t>(r * d.in + i)]);
      }
    }
  }
  CpuQueue& queue = harness::queue(2);
  const Walled<T> x(narrowed<T>(c.x)), w(narrowed<T>(c.w)), b(narrowed<T>(c.b)),
      dy(narrowed<T>(c.dy));
  Walled<T> out(d.rows * d.out);
  linear_forward(queue, d, x.data(), w.data(), b.data(), out.data());
  harness::expect_near<T>("y", out.values(), y, d.in + 1);
  EXPECT_TRUE(out.walls_stand());
  const auto run = [&](GradOut<T> to_x, GradOut<T> to_w, GradOut<T> to_b) {
    linear_backward(queue, d, x.data(), w.data(), out.data(), dy.data(), to_x, to_w, to_b);
  };
  harness::expect_gradient<T>("dx", dx, d.out, [&](GradOut<T> a) { run(a, {}, {}); });
  harness::expect_gradient<T>("dw", dw, d.rows, [&](GradOut<T> a) { run({}, a, {}); });
  harness::expect_gradient<T>("db", db, d.rows, [&](GradOut<T> a) { run({}, {}, a); });
  Walled<T> all_x(d.rows * d.in), all_w(d.out * d.in), all_b(d.out);
  run({all_x.data()}, {all_w.data()}, {all_b.data()});
  harness::expect_near<T>("dx", all_x.values(), dx, d.out);
  harness::expect_near<T>("dw", all_w.values(), dw, d.rows);
  harness::expect_near<T>("db", all_b.values(), db, d.rows);
  EXPECT_TRUE(all_x.walls_stand() && all_w.walls_stand() && all_b.walls_stand());
  run({}, {}, {});
}

TEST(Linear, KernelsAgreeWithTheDefinition) {
  for (const LinearDims& dims : generated(120)) check_kernels<float>(dims);
  for (const LinearDims& dims : kLargeDims) check_kernels<float>(dims);
  for (const LinearDims& dims : generated(40)) check_kernels<double>(dims);
}

TEST(Linear, SameBitsWithAnyNumberOfThreads) {
  for (const LinearDims& d : kLargeDims) {
    const Case c = make_case<float>(d, 3);
    const auto x = narrowed<float>(c.x), w = narrowed<float>(c.w), b = narrowed<float>(c.b),
               dy = narrowed<float>(c.dy);
    harness::expect_same_bits(text(d), [&](CpuQueue& queue) {
      std::vector<float> all(dy.size() + x.size() + w.size() + b.size());
      float* dx = all.data() + dy.size();
      float* dw = dx + x.size();
      linear_forward(queue, d, x.data(), w.data(), b.data(), all.data());
      linear_backward(queue, d, x.data(), w.data(), all.data(), dy.data(), GradOut<float>{dx},
                      GradOut<float>{dw}, GradOut<float>{dw + w.size()});
      return all;
    });
  }
}

TEST(Linear, LetsNaNThrough) {
  const std::vector<float> x = {1, std::numeric_limits<float>::quiet_NaN()}, w(12, 1), b(6, 0);
  for (bool relu : {false, true}) {
    std::vector<float> y(6);
    linear_forward(harness::queue(), {1, 2, 6, relu}, x.data(), w.data(), b.data(), y.data());
    for (float value : y) EXPECT_TRUE(std::isnan(value));
  }
}

TEST(Linear, Gradients) {
  std::uint64_t seed = 0;
  for (const LinearDims& d : generated(150)) {
    const Case c = make_case<double>(d, ++seed);
    GradientCheckOptions options;
    options.seed = seed;
    const GradientCheck check = check_gradients(
        [&](Tape&, std::span<const Var> in) { return linear(in[0], in[1], in[2], d.relu); },
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
