#include "kernels/adam.h"

#include <gtest/gtest.h>

#include "engine/optim/adam.h"
#include "kernels/reduce.h"
#include "tests/harness/op_check.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::Walled;
using kernels::AdamStep;
using kernels::CpuQueue;

// Algorithm 1 of the paper, its bias-corrected moments written out.
struct Adam64 {
  std::vector<double> p, m, v;
  void step(const AdamStep& adam, const std::vector<double>& g) {
    const auto t = static_cast<double>(adam.step);
    for (std::size_t i = 0; i < p.size(); ++i) {
      m[i] = adam.beta1 * m[i] + (1 - adam.beta1) * g[i];
      v[i] = adam.beta2 * v[i] + (1 - adam.beta2) * g[i] * g[i];
      const double m_hat = m[i] / (1 - std::pow(adam.beta1, t));
      const double v_hat = v[i] / (1 - std::pow(adam.beta2, t));
      p[i] -= adam.learning_rate * m_hat / (std::sqrt(v_hat) + adam.epsilon);
    }
  }
};

// One step from the same state: a handful of roundings. The sum of m may cancel, and its error
// passes on to p in proportion to the step's size.
template <class T>
void check_step(std::int64_t size, std::int64_t number) {
  SCOPED_TRACE(fmt::format("size={} step={}", size, number));
  const AdamStep adam{3e-3, 0.9, 0.999, 1e-8, number};
  Draw draw(static_cast<std::uint64_t>(size + number));
  const auto g = draw.normals<T>(size), p = draw.normals<T>(size),
             m = draw.normals<T>(size, 0, 0.3);
  auto v = draw.normals<T>(size, 0, 0.3);
  for (T& value : v) value *= value;
  const auto wide = [](const std::vector<T>& x) { return std::vector<double>(x.begin(), x.end()); };
  Adam64 expected{wide(p), wide(m), wide(v)};
  expected.step(adam, wide(g));

  const Walled<T> gradient(g);
  Walled<T> out_p(p), out_m(m), out_v(v);
  adam_update(harness::queue(2), adam, size, gradient.data(), out_p.data(), out_m.data(),
              out_v.data());
  EXPECT_TRUE(out_p.walls_stand() && out_m.walls_stand() && out_v.walls_stand());
  // The double of the reference rounds too.
  const double u = harness::gamma_of<T>(12) + harness::gamma_of<double>(12);
  const double u_p = harness::kUnitRoundoff<T> + harness::kUnitRoundoff<double>;
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double e_m = u * (0.9 * std::abs(m[i]) + 0.1 * std::abs(g[i]));
    const double scale = adam.learning_rate / (1 - std::pow(adam.beta1, number)) /
                         std::sqrt(expected.v[i] / (1 - std::pow(adam.beta2, number)));
    ASSERT_NEAR(out_m.values()[i], expected.m[i], e_m);
    ASSERT_NEAR(out_v.values()[i], expected.v[i], u * expected.v[i]);
    ASSERT_NEAR(out_p.values()[i], expected.p[i],
                u_p * std::abs(p[i]) + scale * (2 * e_m + u * std::abs(expected.m[i])));
  }
}

TEST(AdamUpdate, AgreesWithTheAlgorithm) {
  for (std::int64_t size : {1, 3, 17, 64, 1001, 9000}) {
    for (std::int64_t number : {1, 2, 10, 1000, 100000}) {
      check_step<float>(size, number);
      check_step<double>(size, number);
    }
  }
}

TEST(AdamUpdate, SameBitsWithAnyNumberOfThreads) {
  const auto g = Draw(1).normals<float>(20011);
  harness::expect_same_bits("adam", [&](CpuQueue& queue) {
    std::vector<float> all(3 * g.size());
    for (std::int64_t step = 1; step <= 3; ++step) {
      adam_update(queue, {1e-3, 0.9, 0.999, 1e-8, step}, static_cast<std::int64_t>(g.size()),
                  g.data(), all.data(), all.data() + g.size(), all.data() + 2 * g.size());
    }
    return all;
  });
}

TEST(SumOfSquares, AgreesWithTheDefinition) {
  for (std::int64_t size : {0, 1, 9, 4096, 4097, 100003}) {
    const auto x = Draw(2).normals<float>(size);
    double expected = 0;
    for (float value : x) expected += double(value) * double(value);
    double first = 0;
    sum_of_squares(harness::queue(1), size, x.data(), &first);
    EXPECT_NEAR(first, expected, harness::gamma_of<double>(size + 1) * expected);
    for (int threads : {2, 3}) {
      double again = 0;
      sum_of_squares(harness::queue(threads), size, x.data(), &again);
      EXPECT_EQ(again, first);
    }
  }
}

// A list of two parameters of different shapes, with gradients that depend on the step.
struct Model {
  ParameterList list{harness::device(), DType::kF32, 5};
  Parameter& w = list.add_uniform("w", {3, 2, 4}, 0.5, Layout::kConv1dWeight);
  Parameter& b = list.add_uniform("b", {5}, 0.5);
  Adam adam{list};

  void run(int steps) {
    for (int i = 0; i < steps; ++i) {
      Draw draw(static_cast<std::uint64_t>(adam.steps()));
      w.grad.copy_from(HostArray::from<float>(draw.normals<float>(24), {3, 2, 4}));
      b.grad.copy_from(HostArray::from<float>(draw.normals<float>(5), {5}));
      adam.step(1e-2);
    }
  }
  std::map<std::string, HostArray> state() const {
    std::map<std::string, HostArray> tensors;
    list.save(tensors);
    adam.save(tensors, "adam");
    return tensors;
  }
};

void expect_equal(const std::map<std::string, HostArray>& a,
                  const std::map<std::string, HostArray>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, array] : a) EXPECT_EQ(array.bytes, b.at(name).bytes) << name;
}

TEST(Adam, TakesOverTheParametersWithTheirValues) {
  Model model;
  ParameterList other(harness::device(), DType::kF32, 5);
  const Parameter& w = other.add_uniform("w", {3, 2, 4}, 0.5, Layout::kConv1dWeight);
  const Parameter& b = other.add_uniform("b", {5}, 0.5);
  EXPECT_EQ(harness::values_of(model.w.value), harness::values_of(w.value));
  EXPECT_EQ(harness::values_of(model.b.value), harness::values_of(b.value));
  EXPECT_TRUE((model.w.value.shape() == Shape{3, 2, 4}));
  // One buffer: the second begins where the first ends.
  EXPECT_EQ(model.b.value.data<float>(), model.w.value.data<float>() + 24);
  EXPECT_EQ(model.b.grad.data<float>(), model.w.grad.data<float>() + 24);
}

TEST(Adam, UpdatesEveryParameter) {
  Model model;
  Adam64 w{harness::values_of(model.w.value), std::vector<double>(24), std::vector<double>(24)};
  Adam64 b{harness::values_of(model.b.value), std::vector<double>(5), std::vector<double>(5)};
  for (std::int64_t step = 1; step <= 10; ++step) {
    Draw draw(static_cast<std::uint64_t>(step - 1));
    w.step({1e-2, 0.9, 0.999, 1e-8, step}, harness::widened(draw.normals<float>(24)));
    b.step({1e-2, 0.9, 0.999, 1e-8, step}, harness::widened(draw.normals<float>(5)));
    model.run(1);
  }
  EXPECT_EQ(model.adam.steps(), 10);
  // Ten steps of 1e-2 with about ten roundings each.
  EXPECT_LE(harness::relative_difference(harness::values_of(model.w.value), w.p), 1e-6);
  EXPECT_LE(harness::relative_difference(harness::values_of(model.b.value), b.p), 1e-6);
}

TEST(Adam, ResumesToTheSameBits) {
  Model whole;
  whole.run(20);
  Model first;
  first.run(7);
  const auto saved = first.state();
  Model second;
  second.list.load(saved, "state", LoadUnknown::kIgnore);
  second.adam.load(saved, "state", "adam");
  EXPECT_EQ(second.adam.steps(), 7);
  second.run(13);
  expect_equal(second.state(), whole.state());
}

TEST(Adam, RefusesAnotherModelsState) {
  Model model;
  const auto saved = model.state();
  const auto load = [&](auto change) {
    auto tensors = saved;
    change(tensors);
    return error_of([&] { model.adam.load(tensors, "run/checkpoint", "adam"); });
  };
  const std::string kOther = "run/checkpoint: the optimizer's state is not that of this model";
  EXPECT_EQ(load([](auto&) {}), "no error");
  for (const char* name : {"adam.m", "adam.v", "adam.steps"}) {
    EXPECT_EQ(load([&](auto& t) { t.erase(name); }),
              fmt::format("run/checkpoint: has no tensor {}", name));
  }
  EXPECT_EQ(load([](auto& t) { t["adam.m"] = HostArray(DType::kF32, {28}); }), kOther);
  EXPECT_EQ(load([](auto& t) { t["adam.v"] = HostArray(DType::kF64, {29}); }), kOther);
  EXPECT_EQ(load([](auto& t) { t["adam.steps"] = HostArray(DType::kI64, {1}); }), kOther);
  EXPECT_EQ(load([](auto& t) { t["adam.steps"] = HostArray(DType::kF64, {}); }), kOther);
}

TEST(Adam, GradientNormIsNotFiniteWhenAGradientIsNot) {
  Model model;
  model.w.grad.fill(2);
  model.b.grad.fill(-2);
  EXPECT_NEAR(model.adam.gradient_norm(), 2 * std::sqrt(29.0), 1e-14);
  for (float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    model.b.grad.data<float>()[3] = bad;
    EXPECT_FALSE(std::isfinite(model.adam.gradient_norm()));
  }
}

}  // namespace
}  // namespace sidechannel
