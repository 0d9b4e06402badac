#include "engine/tape.h"

#include <gtest/gtest.h>

#include "engine/modules.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::device;
using harness::Draw;
using harness::error_of;
using harness::tensor_of;
using harness::values_of;
using kernels::Write;
using enum kernels::Activation;
using Values = std::vector<double>;

// w x + b on one row of one element: small enough to differentiate by hand.
struct Affine {
  ParameterList list{device(), DType::kF64, 1};
  Parameter& w = list.add_filled("w", {1, 1}, 3);
  Parameter& b = list.add_filled("b", {1}, -1);

  Var operator()(const Var& x) {
    const Var weight = x.tape().parameter(w);  // the first to come onto the tape
    return linear(x, weight, x.tape().parameter(b));
  }
};

TEST(Tape, FollowsTheChainRule) {
  Tape tape(device(), DType::kF64);
  Affine f;
  const Var x = tape.leaf(tensor_of({2}, {1, 1}));
  const Var y = f(x);                            // 5
  const Var loss = mse(y, tensor_of({1}, {1}));  // (5 - 1)^2
  EXPECT_EQ(loss.value().item(), 16);
  tape.backward(loss);
  EXPECT_EQ(values_of(tape.gradient(x)), Values{24});  // 2 (5 - 1) 3
  EXPECT_EQ(values_of(f.w.grad), Values{16});          // 2 (5 - 1) 2
  EXPECT_EQ(values_of(f.b.grad), Values{8});
}

TEST(Tape, AddsUpTheGradientsOfAParameterThatIsUsedTwice) {
  Tape tape(device(), DType::kF64);
  Affine f;
  const Var x = tape.constant(tensor_of({2}, {1, 1}));
  const Var once = f(x);
  const Var twice = f(once);  // w (w x + b) + b
  tape.backward(twice);
  EXPECT_EQ(values_of(f.w.grad), Values{2 * 3 * 2 - 1});  // 2 w x + b
  EXPECT_EQ(values_of(f.b.grad), Values{3 + 1});          // w + 1
  tape.backward(twice);                                   // overwrites, whatever stood there
  EXPECT_EQ(values_of(f.w.grad), Values{11});
}

TEST(Tape, AddsUpTheGradientsOfALeafAndOfWhatIsBetween) {
  Draw draw(1);
  harness::expect_gradients(
      [](Tape&, std::span<const Var> in) {
        const Var z = linear(in[0], in[1], in[2]);
        return linear(linear(z, in[1], in[2]), reshape(z, {3, 3}), in[2]);
      },
      std::vector{draw.tensor({3, 3}), draw.tensor({3, 3}), draw.tensor({3})});
}

// One tensor in the place of two inputs of one operation.
TEST(Tape, TakesOneVarForSeveralInputs) {
  Draw draw(2);
  const auto check = [](const auto& f, const std::vector<Tensor>& inputs) {
    harness::expect_gradients(f, inputs);
  };
  using In = std::span<const Var>;
  const NormOptions plain = {1, 1, 1e-5, kNone};
  check([](Tape&, In in) { return linear(in[0], in[0], in[1]); },
        {draw.tensor({4, 4}), draw.tensor({4})});
  check([&](Tape&, In in) { return norm_act(in[0], in[1], in[1], plain); },
        {draw.tensor({2, 5, 3}), draw.tensor({3})});
  const Tensor mean = draw.tensor({3});
  const Tensor variance = tensor_of({1, 2, 3}, {3});
  check(
      [&](Tape&, In in) { return norm_act_population(in[0], in[1], in[1], mean, variance, plain); },
      {draw.tensor({2, 5, 3}), draw.tensor({3})});
  check([](Tape&, In in) { return conv1d(in[0], in[0], in[1], 1); },
        {draw.tensor({3, 4, 4}), draw.tensor({4})});
}

TEST(Tape, GivesZeroToWhatTheOutputDoesNotDependOn) {
  Tape tape(device(), DType::kF64);
  Affine f, other;
  const Var x = tape.leaf(tensor_of({2}, {1, 1}));
  const Var unused = tape.leaf(tensor_of({1, 1, 1}, {3}));
  const Var y = f(x);
  other(x);  // leads nowhere
  other.w.grad.fill(7);
  tape.gradient(unused).fill(7);
  tape.backward(y);
  EXPECT_EQ(values_of(other.w.grad), Values{0});
  EXPECT_EQ(values_of(other.b.grad), Values{0});
  EXPECT_EQ(values_of(tape.gradient(unused)), (Values{0, 0, 0}));
  EXPECT_EQ(values_of(tape.gradient(x)), Values{3});
}

TEST(Tape, AccumulatesTheGradientsOfParametersOnly) {
  Tape tape(device(), DType::kF64);
  Affine f, other;
  const Var x = tape.leaf(tensor_of({2}, {1, 1}));
  const Var unused = tape.leaf(tensor_of({1, 1, 1}, {3}));
  const Var y = f(x);
  tape.parameter(other.w);
  f.w.grad.fill(10);
  f.b.grad.fill(20);
  other.w.grad.fill(30);
  tape.gradient(unused).fill(40);
  tape.gradient(x).fill(50);
  tape.backward(y, {}, Write::kAccumulate);
  EXPECT_EQ(values_of(f.w.grad), Values{12});
  EXPECT_EQ(values_of(f.b.grad), Values{21});
  EXPECT_EQ(values_of(other.w.grad), Values{30});  // plus nothing
  EXPECT_EQ(values_of(tape.gradient(x)), Values{3});
  EXPECT_EQ(values_of(tape.gradient(unused)), (Values{0, 0, 0}));
}

TEST(Tape, WeighsOutputsByTheirCotangent) {
  Tape tape(device(), DType::kF64);
  const Var x = tape.leaf(tensor_of({1, -2, 3}, {3}));
  const Var y = relu(x);
  tape.backward(y, tensor_of({10, 20, 30}, {3}));
  EXPECT_EQ(values_of(tape.gradient(x)), (Values{10, 0, 30}));
  // A second pass over the same record.
  tape.backward(y, tensor_of({1, 1, 1}, {3}));
  EXPECT_EQ(values_of(tape.gradient(x)), (Values{1, 0, 1}));
}

TEST(Tape, GradientOfALeafByItself) {
  Tape tape(device(), DType::kF64);
  const Var x = tape.leaf(tensor_of({4}, {1}));
  tape.backward(x);
  EXPECT_EQ(values_of(tape.gradient(x)), Values{1});
}

TEST(Tape, RecordsOnlyWhatAsksForAGradient) {
  Tape tape(device(), DType::kF64);
  EXPECT_FALSE(relu(tape.constant(tensor_of({1}, {1}))).requires_grad());
  EXPECT_TRUE(relu(tape.leaf(tensor_of({1}, {1}))).requires_grad());
  EXPECT_FALSE(tape.normal({1, 2}, Stream::kNoise, Random(device(), 0)).requires_grad());
}

TEST(Tape, RecordsNothingUnderNoGrad) {
  Tape tape(device(), DType::kF64);
  Affine f;
  const Var x = tape.leaf(tensor_of({2}, {1, 1}));
  const std::size_t nodes = tape.mark().nodes;
  {
    const NoGrad outer(tape);
    {
      const NoGrad inner(tape);
      EXPECT_FALSE(relu(x).requires_grad());
    }
    EXPECT_FALSE(tape.recording());
    const Var y = f(x);
    EXPECT_EQ(values_of(y.value()), Values{5});
    EXPECT_FALSE(y.requires_grad());
    EXPECT_FALSE(tape.leaf(tensor_of({2}, {1, 1})).requires_grad());
  }
  EXPECT_EQ(tape.mark().nodes, nodes);
  EXPECT_TRUE(tape.recording());
  EXPECT_TRUE(relu(x).requires_grad());
}

// What is recorded while parameters are held leads back to leaves alone.
BACKEND_TEST(HoldParameters, GivesTheGradientsOfLeavesAlone) {
  Backend::for_devices([](const Device& device, DType type) {
    ParameterList list(device, type, 1);
    const Conv1d first(list, "first", 3, 4, 3, 1), second(list, "second", 4, 2, 3, 1);
    const NormAct norm(list, "norm", 4, {});
    const auto tensor = [&](Shape shape, std::uint64_t seed) {
      return Tensor::from(device,
                          harness::array_of(Draw(seed).normals<double>(shape.size()), type, shape));
    };
    const Tensor x = tensor({2, 9, 3}, 1), dy = tensor({2, 9, 2}, 2);
    struct Result {
      Values gradient;
      std::size_t nodes;
      std::int64_t launches;  // of the way back
    };
    const auto launches = [&] {
      return on(device, [](auto& queue) {
        if constexpr (requires { queue.counters(); }) {
          return static_cast<std::int64_t>(queue.counters().launches);
        } else {
          return std::int64_t{0};
        }
      });
    };
    const auto run = [&](bool hold) {
      Tape tape(device, type);
      std::optional<HoldParameters> held;
      if (hold) held.emplace(tape);
      const Var in = tape.leaf(x);
      const Var y = second(norm(first(in), Statistics::kMinibatch));
      const std::int64_t before = launches();
      tape.backward(y, dy);
      return Result{values_of(tape.gradient(in)), tape.mark().nodes, launches() - before};
    };
    for (Parameter& parameter : list.parameters()) parameter.grad.fill(7);
    const Result held = run(true);
    for (const Parameter& parameter : list.parameters()) {
      for (const double value : values_of(parameter.grad)) EXPECT_EQ(value, 7) << parameter.name;
    }
    const Result whole = run(false);
    EXPECT_EQ(held.gradient, whole.gradient);
    EXPECT_EQ(held.nodes + 6, whole.nodes);
    if (device.is_cuda()) {
      EXPECT_LT(held.launches, whole.launches);
    }
    for (const Parameter& parameter : list.parameters()) {
      EXPECT_NE(values_of(parameter.grad)[0], 7) << parameter.name;
    }
  });
}

TEST(Tape, HoldsParametersForAsLongAsAsked) {
  Tape tape(device(), DType::kF64);
  Affine f, before;
  const Var kept = tape.parameter(before.w);
  const Var x = tape.leaf(tensor_of({2}, {1, 1}));
  {
    const HoldParameters outer(tape);
    { const HoldParameters inner(tape); }
    EXPECT_TRUE(tape.holds_parameters());
    EXPECT_FALSE(tape.parameter(f.w).requires_grad());
    EXPECT_FALSE(tape.parameter(before.w).requires_grad());
    EXPECT_TRUE(kept.requires_grad());  // as it came onto the tape
    EXPECT_TRUE(f(x).requires_grad());
    EXPECT_FALSE(f(tape.constant(x.value())).requires_grad());
    const NoGrad no_grad(tape);
    EXPECT_FALSE(f(x).requires_grad());
  }
  EXPECT_FALSE(tape.holds_parameters());
  EXPECT_TRUE(tape.parameter(f.w).requires_grad());
}

// Many small backward passes behind one forward pass, as probes need them.
TEST(Tape, RewindForgetsWhatCameLater) {
  Tape tape(device(), DType::kF64);
  Affine first, second;
  const Var x = tape.constant(tensor_of({2}, {1, 1}));
  const Var z = first(x);  // 5
  const Tape::Mark mark = tape.mark();
  const double* before = nullptr;
  for (int i = 0; i < 3; ++i) {
    second.w.value.fill(i);
    const Var y = second(z);
    if (i > 0) {
      EXPECT_EQ(y.data<double>(), before);
    }
    before = y.data<double>();
    tape.backward(y);
    EXPECT_EQ(values_of(second.w.grad), Values{5});
    EXPECT_EQ(values_of(first.w.grad), Values{2.0 * i});
    tape.rewind(mark);
    EXPECT_EQ(tape.mark().nodes, mark.nodes);
  }
  EXPECT_EQ(values_of(z.value()), Values{5});
  // A parameter from before the mark is still known by its node.
  const std::size_t nodes = tape.mark().nodes;
  tape.parameter(first.w);
  EXPECT_EQ(tape.mark().nodes, nodes);
}

// One training step: forward and backward through operations of several sizes.
std::vector<const double*> train_step(Tape& tape, ParameterList& list) {
  tape.reset();
  Parameter& w = list.parameters()[0];
  Parameter& b = list.parameters()[1];
  std::vector<const double*> addresses;
  Var z = tape.normal({40, 300, 1}, Stream::kNoise, Random(device(), 0));
  for (int layer = 0; layer < 6; ++layer) {
    z = conv1d(z, tape.parameter(w), tape.parameter(b), 1);
    addresses.push_back(z.data<double>());
    z = relu(z);
    addresses.push_back(z.data<double>());
  }
  const Var loss = mse(z, tensor_of(Values(300, 0.5), {300}));
  addresses.push_back(loss.data<double>());
  tape.backward(loss);
  addresses.push_back(
      tape.arena().allocate(DType::kF64, {1}).data<double>());  // after all gradients
  return addresses;
}

TEST(Tape, GivesTheSameAddressesFromTheSecondStepOn) {
  Tape tape(device(), DType::kF64);
  ParameterList list(device(), DType::kF64, 1);
  list.add_uniform("w", {3, 1, 1}, 0.5);
  list.add_uniform("b", {1}, 0.5);
  train_step(tape, list);
  const Values gradient = values_of(list.parameters()[0].grad);
  const auto second = train_step(tape, list);
  const std::size_t capacity = tape.arena().capacity();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(train_step(tape, list), second);
  EXPECT_EQ(tape.arena().capacity(), capacity);
  EXPECT_EQ(values_of(list.parameters()[0].grad), gradient);
}

TEST(Tape, ReusesTheGradientsOfActivations) {
  Tape tape(device(), DType::kF64);
  Var z = tape.leaf(tensor_of(Values(1000, 1.0), {1000}));
  for (int i = 0; i < 50; ++i) z = relu(z);
  const Arena::Mark before = tape.arena().mark();
  tape.backward(z, tensor_of(Values(1000, 1.0), {1000}));
  // Two at a time, not fifty.
  EXPECT_LE(tape.arena().mark().used - before.used, 2 * 8000u + 2 * 64u);
}

TEST(Tape, KnowsVariablesThatAreOver) {
  Var stale;
  EXPECT_EQ(error_of([&] { stale.value(); }), "a variable without a tape");
  EXPECT_EQ(error_of([&] { relu(stale); }), "a variable without a tape");
  {
    Tape tape(device(), DType::kF64);
    stale = tape.leaf(tensor_of({1, 2}, {2}));
    EXPECT_EQ(values_of(stale.value()), (Values{1, 2}));
  }
  const std::string kGone = "a variable of shape [2] has outlived its tape";
  EXPECT_EQ(error_of([&] { stale.tape(); }), kGone);
  EXPECT_EQ(error_of([&] { stale.data<double>(); }), kGone);
  EXPECT_EQ(error_of([&] { relu(stale); }), kGone);

  Tape tape(device(), DType::kF64);
  const std::string kOver = "a variable of shape [2] has been reset or rewound away";
  const auto make = [&] { return tape.leaf(tensor_of({1, 2}, {2})); };
  const Var first = make();
  const Tape::Mark mark = tape.mark();
  const Var second = make();
  const Tape::Mark inner = tape.mark();
  const Var third = make();
  tape.rewind(inner);
  EXPECT_EQ(error_of([&] { third.value(); }), kOver);
  const Var fourth = make();
  for (const Var& var : {first, second, fourth}) EXPECT_NO_THROW(relu(var));
  tape.rewind(mark);
  const Var fifth = make();
  for (const Var& var : {first, fifth}) EXPECT_NO_THROW(relu(var));
  for (const Var& var : {second, third, fourth}) EXPECT_EQ(error_of([&] { relu(var); }), kOver);
  const Tensor one = tensor_of({1, 1}, {2});
  EXPECT_EQ(error_of([&] { tape.backward(second, one); }), kOver);
  EXPECT_EQ(error_of([&] { tape.gradient(second); }), kOver);
  tape.reset();
  for (const Var& var : {first, second, third, fourth, fifth}) {
    EXPECT_EQ(error_of([&] { relu(var); }), kOver);
  }
  EXPECT_NO_THROW(relu(make()));
}

// An optimizer moves parameters into a buffer of its own.
TEST(Tape, KnowsParametersThatHaveMoved) {
  Tape tape(device(), DType::kF64);
  Affine a;
  const auto run = [&] { return a(tape.constant(tensor_of({2}, {1, 1}))); };
  const Var before = run();
  a.list.flatten();
  EXPECT_EQ(error_of([&] { tape.backward(before); }),
            "backward: parameter w has moved since it came onto the tape: an optimizer takes its "
            "parameters before the first step");
  tape.reset();
  tape.backward(run());
  EXPECT_EQ(values_of(a.w.grad), Values{2});
}

TEST(Tape, RefusesWhatItCannotDo) {
  Tape tape(device(), DType::kF64);
  Tape other(device(), DType::kF64);
  const Var x = tape.leaf(tensor_of({1, 2}, {2}));
  const Var y = relu(x);
  const std::string kNothing =
      "backward: the output does not depend on anything that asks for a gradient";
  EXPECT_EQ(error_of([&] { tape.backward(tape.constant(tensor_of({1}, {1}))); }), kNothing);
  EXPECT_EQ(error_of([&] { tape.backward(Var()); }), kNothing);
  EXPECT_EQ(error_of([&] { other.backward(y); }), kNothing);
  EXPECT_EQ(error_of([&] { tape.backward(y); }),
            "backward: an output of shape [2] needs a cotangent of that shape");
  EXPECT_EQ(error_of([&] {
              tape.backward(y, tensor_of({1, 2}, {2, 1}));
            }),
            "backward: an output of shape [2] needs a cotangent of that shape");
  EXPECT_EQ(error_of([&] { tape.gradient(y); }), "gradient: not a leaf or parameter of this tape");
  EXPECT_EQ(error_of([&] { other.gradient(x); }), "gradient: not a leaf or parameter of this tape");
  const Random random(device(), 0);
  EXPECT_EQ(error_of([&] {
              tape.normal({2, 3, 2}, Stream::kNoise, random);
            }),
            "normal: expected a shape [samples, length] or [samples, length, 1], got [2, 3, 2]");
  EXPECT_EQ(error_of([&] { tape.normal({2}, Stream::kNoise, random); }),
            "normal: expected a shape [samples, length] or [samples, length, 1], got [2]");
  EXPECT_EQ(error_of([&] {
              mse(x, other.constant(tensor_of({1, 2}, {2})).value());
              linear(tape.leaf(tensor_of({2}, {1, 1})), other.leaf(tensor_of({3}, {1, 1})),
                     tape.leaf(tensor_of({1}, {1})));
            }),
            "the inputs of an operation are of different tapes");
  // Tensors of another type than the tape's.
  const Var single = tape.constant(Tensor::zeros(device(), DType::kF32, {2}));
  EXPECT_EQ(error_of([&] { relu(single); }), "tensor: holds f64, asked for f32");
}

}  // namespace
}  // namespace sidechannel
