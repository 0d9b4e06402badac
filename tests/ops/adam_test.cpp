#include "kernels/adam.h"

#include <gtest/gtest.h>

#include "engine/optim/adam.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::BufferOn;
using harness::Draw;
using harness::error_of;
using harness::widened;
using kernels::begin_step;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// The rule of most tests, and where it stands when step `number`, counted from 1, has begun.
AdamRule constant_rate(double rate) {
  return {LearningRate{rate}};
}
AdamState at_step(const AdamRule& rule, std::int64_t number) {
  AdamState before;
  before.steps = number - 1;
  return begin_step(rule, before, 1, 1, FLT_MAX);
}

// Algorithm 1 of the paper, its bias-corrected moments written out.
struct Adam64 {
  std::vector<double> p, m, v;
  void step(double learning_rate, std::int64_t number, const std::vector<double>& g) {
    const AdamRule adam;
    const auto t = static_cast<double>(number);
    for (std::size_t i = 0; i < p.size(); ++i) {
      m[i] = adam.beta1 * m[i] + (1 - adam.beta1) * g[i];
      v[i] = adam.beta2 * v[i] + (1 - adam.beta2) * g[i] * g[i];
      const double m_hat = m[i] / (1 - std::pow(adam.beta1, t));
      const double v_hat = v[i] / (1 - std::pow(adam.beta2, t));
      p[i] -= learning_rate * m_hat / (std::sqrt(v_hat) + adam.epsilon);
    }
  }
};

// The buffers of a training, and its calls on them.
template <class Backend, class T>
struct Training {
  AdamRule rule;
  BufferOn<Backend, AdamState> state;
  BufferOn<Backend, T> g, p, m, v;

  explicit Training(const AdamRule& r, const AdamState& s = {}, const std::vector<T>& gradient = {},
                    const std::vector<T>& parameters = {}, const std::vector<T>& means = {},
                    const std::vector<T>& squares = {})
      : rule(r), state(std::vector{s}), g(gradient), p(parameters), m(means), v(squares) {}

  void begin(auto& queue, double sum_of_squares, double loss) {
    const BufferOn<Backend, double> squares(std::vector{sum_of_squares});
    const BufferOn<Backend, T> number(std::vector{static_cast<T>(loss)});
    run(queue, kernels::AdamBegin<T>{.rule = rule,
                                     .sum_of_squares = squares.data(),
                                     .loss = number.data(),
                                     .state = state.data()});
    EXPECT_TRUE(state.walls_stand());  // waits, before the two are gone
  }
  void update(auto& queue) {
    run(queue, kernels::AdamUpdate<T>{.rule = rule,
                                      .state = state.data(),
                                      .size = static_cast<std::int64_t>(p.values().size()),
                                      .g = g.data(),
                                      .p = p.data(),
                                      .m = m.data(),
                                      .v = v.data()});
    EXPECT_TRUE(p.walls_stand() && m.walls_stand() && v.walls_stand());
  }
};

// One step from the same state: a handful of roundings. The sum of m may cancel, and its error
// passes on to p in proportion to the step's size.
template <class Backend, class T>
void check_step(auto& queue, std::int64_t size, std::int64_t number) {
  SCOPED_TRACE(fmt::format("size={} step={}", size, number));
  const AdamRule rule = constant_rate(3e-3);
  Draw draw(static_cast<std::uint64_t>(size + number));
  const auto g = draw.normals<T>(size), p = draw.normals<T>(size),
             m = draw.normals<T>(size, 0, 0.3);
  auto v = draw.normals<T>(size, 0, 0.3);
  for (T& value : v) value *= value;
  Adam64 expected{widened(p), widened(m), widened(v)};
  expected.step(3e-3, number, widened(g));

  Training<Backend, T> training(rule, at_step(rule, number), g, p, m, v);
  training.update(queue);
  const auto new_p = training.p.values(), new_m = training.m.values(), new_v = training.v.values();
  // The double of the reference rounds too.
  const double u = harness::gamma_of<T>(12) + harness::gamma_of<double>(12);
  const double u_p = harness::kUnitRoundoff<T> + harness::kUnitRoundoff<double>;
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double e_m = u * (0.9 * std::abs(m[i]) + 0.1 * std::abs(g[i]));
    const double scale = 3e-3 / (1 - std::pow(rule.beta1, number)) /
                         std::sqrt(expected.v[i] / (1 - std::pow(rule.beta2, number)));
    ASSERT_NEAR(new_m[i], expected.m[i], e_m);
    ASSERT_NEAR(new_v[i], expected.v[i], u * expected.v[i]);
    ASSERT_NEAR(new_p[i], expected.p[i],
                u_p * std::abs(p[i]) + scale * (2 * e_m + u * std::abs(expected.m[i])));
  }
}

// Nothing; one element; fewer than a thread's four; a block's 1024 and one more; several blocks.
BACKEND_TEST(AdamUpdate, AgreesWithTheAlgorithm) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const std::int64_t size : {0, 1, 3, 17, 64, 1001, 1024, 1025, 5000, 9000}) {
      for (const std::int64_t number : {1, 2, 10, 1000, 100000}) {
        Backend::for_alignments([&] { check_step<Backend, T>(queue, size, number); });
      }
    }
  });
}

BACKEND_TEST(AdamUpdate, SameBitsEveryTime) {
  const auto g = Draw(1).normals<float>(20011);
  const std::vector<float> zeros(g.size());
  Backend::expect_same_bits("adam", [&](auto& queue) {
    Training<Backend, float> training(constant_rate(1e-3), {}, g, zeros, zeros, zeros);
    for (int step = 0; step < 3; ++step) {
      training.begin(queue, 1, 1);
      training.update(queue);
    }
    return harness::values_of_all({&training.p, &training.m, &training.v});
  });
}

// Without gradient the moments fade, and end at zero before they are subnormal: on the CPU, which
// takes long for such numbers.
template <class T>
void check_fading() {
  constexpr std::size_t kSize = 37;
  constexpr T kLeast = std::numeric_limits<T>::min();
  const double tolerance = 4 * harness::kUnitRoundoff<T>;
  const AdamRule rule = constant_rate(1e-3);
  const std::vector<T> g(kSize, T(0)), start(kSize, T(0.5)), v(kSize, kLeast * T(1.0015));
  std::vector<T> m(kSize);
  for (std::size_t i = 0; i < kSize; ++i) m[i] = kLeast * (i % 2 == 0 ? T(1.2) : T(-1.2));
  Training<harness::OnCpu, T> training(rule, at_step(rule, 1000), g, start, m, v);
  for (int step = 0; step < 2; ++step) {
    training.update(harness::queue());
    for (std::size_t i = 0; i < kSize; ++i) {
      const double sign = i % 2 == 0 ? 1 : -1;
      ASSERT_NEAR(training.m.values()[i] / kLeast, step == 0 ? sign * 1.2 * 0.9 : 0, tolerance);
      ASSERT_NEAR(training.v.values()[i] / kLeast, step == 0 ? 1.0015 * 0.999 : 0, tolerance);
    }
  }
  for (const T value : training.p.values()) EXPECT_EQ(value, T(0.5));
}

TEST(AdamUpdate, MomentsFadeToZero) {
  check_fading<float>();
  check_fading<double>();
}

BACKEND_TEST(AdamBegin, CountsTheStepAndTakesItsRate) {
  Backend::for_types([]<class T>(auto& queue) {
    const AdamRule rule{{2e-3, LearningRate::Schedule::kTail, 5, 20}};
    Training<Backend, T> training(rule);
    for (std::int64_t number = 1; number <= 20; ++number) {
      const auto t = static_cast<double>(number);
      training.begin(queue, t * t, t / 2);
      const AdamState state = training.state.value();
      EXPECT_EQ(state.steps, number);
      EXPECT_EQ(state.learning_rate, rule.rate.at(number - 1));
      // beta^t by multiplications is off by at most t roundings, which 1 - beta^t enlarges.
      const double rate = state.learning_rate / (1 - std::pow(0.9, t));
      const double correction = 1 / std::sqrt(1 - std::pow(0.999, t));
      const double rounding = (t + 4) * harness::kUnitRoundoff<double>;
      EXPECT_NEAR(state.rate, rate, rate * rounding / (1 - std::pow(0.9, t)));
      EXPECT_NEAR(state.correction, correction, correction * rounding / (1 - std::pow(0.999, t)));
      EXPECT_EQ(state.gradient_norm(), t);
      EXPECT_EQ(state.loss, t / 2);
      EXPECT_EQ(state.halted, 0);
    }
  });
}

BACKEND_TEST(AdamBegin, NeedsNoLoss) {
  Backend::for_types([]<class T>(auto& queue) {
    const BufferOn<Backend, double> squares(std::vector{4.0});
    BufferOn<Backend, AdamState> state(std::vector{AdamState()});
    run(queue,
        kernels::AdamBegin<T>{
            .rule = constant_rate(1e-2), .sum_of_squares = squares.data(), .state = state.data()});
    EXPECT_EQ(state.value().steps, 1);
    EXPECT_EQ(state.value().loss, 0);
  });
}

// From the first loss or gradient that is not finite, nothing changes any more; in f32 also from a
// gradient whose square v cannot hold. The numbers that halted it stay, whatever comes after them.
BACKEND_TEST(AdamBegin, HaltsBeforeAStepWhoseNumbersAreNotFinite) {
  Backend::for_types([]<class T>(auto& queue) {
    const AdamRule rule = constant_rate(1e-2);
    const std::vector<T> g(100, 1), start(100, 2);
    const auto check = [&](double squares, double loss, bool halted) {
      SCOPED_TRACE(fmt::format("squares={} loss={}", squares, loss));
      Training<Backend, T> training(rule, at_step(rule, 10), g, start, start, start);
      training.begin(queue, squares, loss);
      training.update(queue);
      for (const auto* part : {&training.p, &training.m, &training.v}) {
        for (const T value : part->values()) ASSERT_EQ(value == 2, halted);
      }
      EXPECT_EQ(training.state.value().halted != 0, halted);
      EXPECT_EQ(training.state.value().steps, halted ? 10 : 11);
      if (!halted) return;
      const auto before = harness::values_of_all({&training.state});
      EXPECT_EQ(fmt::format("{} {}", before[0].sum_of_squares, before[0].loss),
                fmt::format("{} {}", squares, loss));
      training.begin(queue, 1, 1);
      training.update(queue);
      harness::expect_equal_bits("state", training.state.values(), before);
      for (const auto* part : {&training.p, &training.m, &training.v}) {
        for (const T value : part->values()) ASSERT_EQ(value, 2);
      }
    };
    check(4, 0.5, false);
    check(1e38, 0.5, false);
    check(1e39, 0.5, sizeof(T) == 4);
    for (const double bad : {kNan, kInfinity, -kInfinity}) {
      check(bad, 0.5, true);
      check(4, bad, true);
      check(bad, bad, true);
    }
  });
}

// A list of two parameters of different shapes, with gradients that depend on the step.
struct Model {
  ParameterList list{harness::device(), DType::kF32, 5};
  Parameter& w = list.add_uniform("w", {3, 2, 4}, 0.5, Layout::kConv1dWeight);
  Parameter& b = list.add_uniform("b", {5}, 0.5);
  Adam adam{list, constant_rate(1e-2)};

  void draw_gradients() {
    Draw draw(static_cast<std::uint64_t>(adam.steps()));
    w.grad.copy_from(HostArray::from<float>(draw.normals<float>(24), {3, 2, 4}));
    b.grad.copy_from(HostArray::from<float>(draw.normals<float>(5), {5}));
  }
  void run(int steps) {
    for (int i = 0; i < steps; ++i) {
      draw_gradients();
      adam.step();
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
    w.step(1e-2, step, widened(draw.normals<float>(24)));
    b.step(1e-2, step, widened(draw.normals<float>(5)));
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
    const std::string message =
        error_of([&] { model.adam.load(tensors, "run/checkpoint", "adam"); });
    return message.starts_with("run/checkpoint: ") ? message.substr(16) : message;
  };
  const auto with = [&](const char* name, const HostArray& array) {
    return load([&](auto& tensors) { tensors[name] = array; });
  };
  EXPECT_EQ(load([](auto&) {}), "no error");
  for (const char* name : {"adam.m", "adam.v", "adam.steps"}) {
    EXPECT_EQ(load([&](auto& t) { t.erase(name); }), fmt::format("has no tensor {}", name));
  }
  EXPECT_EQ(with("adam.m", HostArray(DType::kF32, {28})), "adam.m is f32 [28], expected f32 [29]");
  EXPECT_EQ(with("adam.v", HostArray(DType::kF64, {29})), "adam.v is f64 [29], expected f32 [29]");
  EXPECT_EQ(with("adam.steps", HostArray(DType::kI64, {1})),
            "adam.steps is i64 [1], expected i64 []");
  EXPECT_EQ(with("adam.steps", HostArray(DType::kF64, {})),
            "adam.steps is f64 [], expected i64 []");
  EXPECT_EQ(with("adam.steps", scalar(-1)), "adam.steps is -1, expected 0 to 9223372036854775807");
  EXPECT_EQ(load([](auto& t) { t["adam.v"].template as<float>()[28] = -1; }),
            "tensor adam.v holds -1, expected at least 0");
  EXPECT_EQ(load([](auto& t) { t["adam.m"].template as<float>()[28] = -1; }), "no error");
}

TEST(Adam, TellsWhatItsLastStepUsed) {
  Model model;
  model.w.grad.fill(2);
  model.b.grad.fill(-2);
  model.adam.step();
  EXPECT_NEAR(model.adam.gradient_norm(), 2 * std::sqrt(29.0), 1e-14);
  EXPECT_EQ(model.adam.learning_rate(), 1e-2);
  EXPECT_FALSE(model.adam.halted());
  EXPECT_EQ(*model.adam.halted_flag(), 0);
  EXPECT_EQ(error_of([&] { model.adam.step(Tensor::zeros(harness::device(), DType::kF32, {2})); }),
            "adam: expected a loss of one number, got [2]");
}

// One gradient or the loss is not finite: nothing changes from there on, though later steps are
// fine again, and the state that is saved goes on as if nothing had happened.
TEST(Adam, KeepsTheStateBeforeAStepThatIsNotFinite) {
  const auto loss = [](double value) {
    Tensor tensor(harness::device(), DType::kF32, {1});
    tensor.fill(value);
    return tensor;
  };
  for (const double bad : {kNan, kInfinity}) {
    for (const bool in_loss : {false, true}) {
      Model model;
      model.run(7);
      const auto before = model.state();
      model.draw_gradients();
      if (!in_loss) model.b.grad.data<float>()[3] = static_cast<float>(bad);
      model.adam.step(loss(in_loss ? bad : 0.5));
      EXPECT_TRUE(model.adam.halted());
      EXPECT_EQ(std::isfinite(model.adam.gradient_norm()), in_loss);
      EXPECT_EQ(std::isfinite(model.adam.state().loss), !in_loss);
      expect_equal(model.state(), before);
      model.run(3);
      EXPECT_TRUE(model.adam.halted());
      EXPECT_EQ(model.adam.steps(), 7);
      expect_equal(model.state(), before);

      model.list.load(before, "state", LoadUnknown::kIgnore);
      model.adam.load(before, "state", "adam");
      EXPECT_FALSE(model.adam.halted());
      model.run(3);
      Model whole;
      whole.run(10);
      expect_equal(model.state(), whole.state());
    }
  }
}

}  // namespace
}  // namespace sidechannel
