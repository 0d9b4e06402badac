#include "kernels/ema.h"

#include <gtest/gtest.h>

#include "engine/optim/adam.h"
#include "engine/optim/ema.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::BufferOn;
using harness::Draw;
using harness::error_of;
using harness::Reference;
using harness::values_of;

// Steps with new values each; `rule(average, value)` is the recurrence, in double.
template <class Backend, class T, class Rule>
void check_steps(auto& queue, std::int64_t size, double decay, const Rule& rule) {
  SCOPED_TRACE(fmt::format("size={} decay={}", size, decay));
  constexpr int kSteps = 8;
  Draw draw(static_cast<std::uint64_t>(size));
  const auto start = draw.normals<T>(size);
  BufferOn<Backend, T> average(start);
  Reference expected(size);
  expected.add_all(harness::widened(start));
  for (int step = 1; step <= kSteps; ++step) {
    const auto value = draw.normals<T>(size);
    const BufferOn<Backend, T> in(value);
    run(queue, kernels::EmaUpdate<T>{
                   .decay = decay, .size = size, .value = in.data(), .average = average.data()});
    EXPECT_TRUE(average.walls_stand());
    for (std::size_t i = 0; i < value.size(); ++i) {
      expected.value[i] = rule(expected.value[i], double(value[i]));
      expected.magnitude[i] =
          decay * expected.magnitude[i] + (1 - decay) * std::abs(double(value[i]));
    }
    // A term passes one rounding of its factor, one product and one sum in every step.
    harness::expect_near<T>("average", average.values(), expected, 3 * step);
  }
}

// Nothing; fewer than a thread's four; a block's 1024 and one more; several blocks.
BACKEND_TEST(Ema, AgreesWithTheRecurrence) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const std::int64_t size : {0, 1, 3, 17, 1023, 1024, 1025, 9001}) {
      for (const double decay : {0.0, 0.5, 0.995, 1.0}) {
        Backend::for_alignments([&] {
          check_steps<Backend, T>(queue, size, decay, [=](double average, double value) {
            return decay * average + (1 - decay) * value;
          });
        });
      }
    }
  });
}

// Known-wrong variants: the factors in each other's place, and a factor that is off by a hundredth.
BACKEND_TEST(Ema, WrongRecurrencesAreFound) {
  Backend::for_types([]<class T>(auto& queue) {
    EXPECT_GE(harness::failures_of([&] {
                check_steps<Backend, T>(queue, 100, 0.9, [](double average, double value) {
                  return 0.1 * average + 0.9 * value;
                });
              }),
              8);
    EXPECT_GE(harness::failures_of([&] {
                check_steps<Backend, T>(queue, 100, 0.9, [](double average, double value) {
                  return 0.9 * average + 0.101 * value;
                });
              }),
              8);
  });
}

// On CUDA those of one CPU thread, too.
BACKEND_TEST(Ema, SameBitsEverywhere) {
  const auto start = Draw(1).normals<float>(20011), value = Draw(2).normals<float>(20011);
  const auto averages = [&]<class B>(B, auto& queue) {
    BufferOn<B, float> average(start);
    const BufferOn<B, float> in(value);
    for (int step = 0; step < 3; ++step) {
      run(queue, kernels::EmaUpdate<float>{
                     .decay = 0.995, .size = 20011, .value = in.data(), .average = average.data()});
    }
    return harness::values_of_all({&average});
  };
  const auto expected = averages(harness::OnCpu(), harness::queue());
  Backend::expect_same_bits("ema", [&](auto& queue) {
    auto all = averages(Backend(), queue);
    harness::expect_equal_bits("the CPU's", all, expected);
    return all;
  });
}

BACKEND_TEST(Ema, StopsWhereTrainingHasHalted) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const std::int64_t halted : {0, 1}) {
      const BufferOn<Backend, std::int64_t> flag(std::vector{halted});
      const BufferOn<Backend, T> value(std::vector<T>(5, 3));
      BufferOn<Backend, T> average(std::vector<T>(5, 1));
      run(queue, kernels::EmaUpdate<T>{.decay = 0.5,
                                       .halted = flag.data(),
                                       .size = 5,
                                       .value = value.data(),
                                       .average = average.data()});
      for (const T result : average.values()) EXPECT_EQ(result, halted ? 1 : 2);
    }
  });
}

// A model whose gradients depend on the step, trained with an average beside it.
struct Model {
  ParameterList list;
  Parameter& w = list.add_uniform("w", {3, 2, 4}, 0.5, Layout::kConv1dWeight);
  Parameter& b = list.add_uniform("b", {5}, 0.5);
  Adam adam{list, {LearningRate{1e-2}}};
  Ema ema{list, 0.9};

  explicit Model(const Device& device = harness::device()) : list(device, DType::kF32, 5) {}

  void step() {
    Draw draw(static_cast<std::uint64_t>(adam.steps()));
    w.grad.copy_from(HostArray::from<float>(draw.normals<float>(24), {3, 2, 4}));
    b.grad.copy_from(HostArray::from<float>(draw.normals<float>(5), {5}));
    adam.step();
    ema.update(adam.halted_flag());
  }
  void run(int steps) {
    for (int i = 0; i < steps; ++i) step();
  }
  std::vector<double> values() const {
    std::vector<double> all = values_of(w.value);
    const std::vector<double> more = values_of(b.value);
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  TensorMap state() const {
    TensorMap tensors;
    list.save(tensors);
    adam.save(tensors, "adam");
    ema.save(tensors, "ema");
    return tensors;
  }
  void load(const TensorMap& tensors) {
    list.load(tensors, "state", LoadUnknown::kIgnore);
    adam.load(tensors, "state", "adam");
    ema.load(tensors, "state", "ema");
  }
};

void check_follows(const Device& device, DType) {
  Model model(device);
  const std::vector<double> start = model.values();
  EXPECT_EQ(values_of(model.ema.average()), start);  // a copy
  std::vector<double> expected = start;
  double largest = 0;  // of all that is averaged
  for (int step = 1; step <= 10; ++step) {
    model.step();
    const std::vector<double> now = model.values();
    for (std::size_t i = 0; i < now.size(); ++i) {
      expected[i] = 0.9 * expected[i] + 0.1 * now[i];
      largest = std::max({largest, std::abs(now[i]), std::abs(start[i])});
    }
    const std::vector<double> averages = values_of(model.ema.average());
    for (std::size_t i = 0; i < now.size(); ++i) {
      ASSERT_NEAR(averages[i], expected[i], harness::gamma_of<float>(3 * step) * largest);
    }
    EXPECT_NE(averages, now);
  }
  model.ema.reset();
  EXPECT_EQ(values_of(model.ema.average()), model.values());
}

BACKEND_TEST(Ema, FollowsTheParametersOfAModel) {
  Backend::for_devices([](const Device& device, DType type) {
    if (type == DType::kF32) check_follows(device, type);
  });
}

// The order in which an optimizer and an average come does not matter.
TEST(Ema, SharesTheFlatBuffersOfAnOptimizer) {
  ParameterList list(harness::device(), DType::kF32, 5);
  Parameter& p = list.add_filled("p", {4}, 1);
  Ema before(list, 0.5);
  Adam adam(list, {LearningRate{1e-1}});
  Ema after(list, 0.5);
  p.grad.fill(1);
  adam.step();
  const double moved = values_of(p.value)[0];
  EXPECT_LT(moved, 0.95);
  for (Ema* ema : {&before, &after}) {
    ema->update();
    EXPECT_NEAR(values_of(ema->average())[0], (1 + moved) / 2, 1e-7);
  }
}

TEST(Ema, StandsInPlaceOfTheParametersForAWhile) {
  Model model;
  model.run(3);
  const std::vector<double> trained = model.values(), averages = values_of(model.ema.average());
  ASSERT_NE(trained, averages);
  {
    const Ema::InPlace averaged(model.ema);
    EXPECT_EQ(model.values(), averages);
    EXPECT_EQ(values_of(model.ema.average()), averages);
  }
  EXPECT_EQ(model.values(), trained);
  EXPECT_EQ(error_of([&] {
              const Ema::InPlace averaged(model.ema);
              throw Error("evaluation failed");
            }),
            "evaluation failed");
  EXPECT_EQ(model.values(), trained);
  // It leaves no trace in what comes next.
  model.run(4);
  Model whole;
  whole.run(7);
  EXPECT_EQ(model.state().at("ema.average").bytes, whole.state().at("ema.average").bytes);
}

TEST(Ema, ResumesToTheSameBits) {
  Model whole;
  whole.run(20);
  Model first;
  first.run(7);
  Model second;
  second.load(first.state());
  second.run(13);
  const TensorMap expected = whole.state(), actual = second.state();
  ASSERT_EQ(actual.size(), expected.size());
  for (const auto& [name, array] : actual) EXPECT_EQ(array.bytes, expected.at(name).bytes) << name;
}

// A step that is not finite halts the training; the average is that of the steps before.
TEST(Ema, KeepsTheAverageOfATrainingThatHasHalted) {
  Model model;
  model.run(5);
  const TensorMap before = model.state();
  model.b.grad.fill(std::numeric_limits<double>::quiet_NaN());
  model.adam.step();
  model.ema.update(model.adam.halted_flag());
  model.run(2);
  EXPECT_EQ(model.state().at("ema.average").bytes, before.at("ema.average").bytes);
}

TEST(Ema, RefusesWhatItCannotUse) {
  Model model;
  TensorMap tensors = model.state();
  const auto load = [&] { return error_of([&] { model.ema.load(tensors, "run/state", "ema"); }); };
  EXPECT_EQ(load(), "no error");
  tensors["ema.average"] = HostArray(DType::kF32, {28});
  EXPECT_EQ(load(), "run/state: ema.average is f32 [28], expected f32 [29]");
  tensors.erase("ema.average");
  EXPECT_EQ(load(), "run/state: has no tensor ema.average");
  for (const double decay : {-0.1, 1.1, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_EQ(error_of([&] { Ema(model.list, decay); }),
              fmt::format("ema: expected a decay from 0 to 1, got {}", decay));
  }
}

}  // namespace
}  // namespace sidechannel
