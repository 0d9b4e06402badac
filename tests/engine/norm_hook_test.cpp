// What one sees and holds of normalizations in a network that is no Localizer.

#include <gtest/gtest.h>

#include "engine/modules.h"
#include "models/frozen_statistics.h"
#include "models/localizer.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::relative_difference;
using harness::values_of;

// Norms of different sets and widths, the last one by its mean square; [N, L, 3] -> [N, L, 4].
struct Mixed {
  ParameterList list;
  Conv1d in, between;
  NormAct first, second, third;
  ConvNormAct rows;

  Mixed(const Device& device, DType type)
      : list(device, type, 3),
        in(list, "in", 3, 6, 3, 1),
        between(list, "between", 6, 4, 3, 1),
        first(list, "first", 6, {.channels_per_set = 3, .activation = Activation::kMish}),
        second(list, "second", 4, {.channels_per_set = 4, .positions_per_set = 1}),
        third(list, "third", 4, {.channels_per_set = 2, .centred = false}),
        rows(list, "rows", 2, 4, 3, 1, NormOptions{}) {}

  Var operator()(const Var& x, NormHook* hook = nullptr) const {
    constexpr Statistics kOwn = Statistics::kMinibatch;
    if (hook) hook->begin();
    const Var z = third(second(between(first(in(x), kOwn, hook)), kOwn, hook), kOwn, hook);
    Var y = rows(z, kOwn, nullptr, hook);
    if (hook) hook->end();
    return y;
  }
};

// The answer to x, and the gradient of x for a drawn cotangent.
struct Answer {
  std::vector<double> y, dx;
};
Answer answer_of(const Mixed& network, const Tensor& x, NormHook* hook) {
  Tape tape(x.device(), x.dtype());
  const Var in = tape.leaf(x);
  const Var y = network(in, hook);
  const auto cotangent = Draw(9).normals<double>(y.size());
  tape.backward(y, Tensor::from(x.device(), harness::array_of(cotangent, x.dtype(), y.shape())));
  return {values_of(y.value()), values_of(tape.gradient(in))};
}

Tensor drawn(const Device& device, DType type, Shape shape) {
  return Tensor::from(device,
                      harness::array_of(Draw(4).normals<double>(shape.size(), 0.5), type, shape));
}

BACKEND_TEST(NormHook, SeesTheLayersInTheirOrder) {
  Backend::for_devices([](const Device& device, DType type) {
    const Mixed network(device, type);
    Tape tape(device, type);
    const Var x = tape.constant(drawn(device, type, {2, 7, 3}));
    NormHook hook;
    for (int pass = 0; pass < 2; ++pass) {  // each sees its own layers alone
      const Var y = network(x, &hook);
      EXPECT_EQ(values_of(y.value()), values_of(network(x).value()));
      ASSERT_EQ(hook.inputs.size(), 5u);
      ASSERT_EQ(hook.sets.size(), 5u);
    }
    EXPECT_EQ(values_of(hook.inputs[0].value()), values_of(network.in(x).value()));
    const Var first = network.first(hook.inputs[0], Statistics::kMinibatch);
    EXPECT_EQ(values_of(hook.inputs[1].value()), values_of(network.between(first).value()));
    EXPECT_EQ(hook.sets[1].positions_per_set, 1);
    EXPECT_FALSE(hook.sets[2].centred);
    EXPECT_EQ(hook.sets[3].channels_per_set, 1);
  });
}

// A layer is held where the hook says so, and beyond its end as it is.
BACKEND_TEST(NormHook, HoldsEachLayerByItself) {
  Backend::for_devices([](const Device& device, DType type) {
    const Mixed network(device, type);
    const Tensor x = drawn(device, type, {1, 7, 3});
    const Answer own = answer_of(network, x, nullptr);
    for (std::size_t i = 0; i < 5; ++i) {
      NormHook none{std::vector<NormHook::Layer>(i + 1)};
      const Answer same = answer_of(network, x, &none);
      EXPECT_EQ(same.y, own.y);
      EXPECT_EQ(same.dx, own.dx);
      for (const bool mean : {true, false}) {
        NormHook back = none;
        (mean ? back.layers[i].through_mean : back.layers[i].through_variance) = false;
        const Answer held = answer_of(network, x, &back);
        EXPECT_EQ(held.y, own.y);
        // An RMS goes through no mean as it is.
        EXPECT_EQ(held.dx == own.dx, mean && i == 2) << i;
      }
      NormHook fixed = none;
      const std::vector<double> means(i == 0 ? 6 : 4, 0.1), variances(means.size(), 2);
      const Shape shape{static_cast<std::int64_t>(means.size())};
      fixed.layers[i].fixed = {Tensor::from(device, harness::array_of(means, type, shape)),
                               Tensor::from(device, harness::array_of(variances, type, shape))};
      EXPECT_NE(answer_of(network, x, &fixed).y, own.y);
    }
  });
}

// The statistics of a pass, held: the same answer, and the gradient of own statistics that are held
// on the way back. The second norm's are of one position, and not held by the former.
BACKEND_TEST(NormHook, StatisticsOfAPassAnswerTheSame) {
  Backend::for_devices([](const Device& device, DType type) {
    const Mixed network(device, type);
    const Tensor x = drawn(device, type, {1, 7, 3});
    NormHook seen, back{std::vector<NormHook::Layer>(5, {{}, false, false})};
    back.layers[1] = {};
    std::vector<NormHook::Layer> layers;
    {
      Tape tape(device, type);
      network(tape.constant(x), &seen);
      layers = statistics_of(seen);
    }
    ASSERT_EQ(layers.size(), 5u);
    EXPECT_FALSE(layers[1].fixed.mean);
    EXPECT_EQ(values_of(layers[2].fixed.mean), std::vector<double>(4, 0));
    NormHook fixed{layers};
    const Answer own = answer_of(network, x, nullptr), held = answer_of(network, x, &back),
                 frozen = answer_of(network, x, &fixed);
    const double tolerance = type == DType::kF64 ? 1e-12 : 1e-2;
    EXPECT_LE(relative_difference(frozen.y, own.y), tolerance);
    EXPECT_LE(relative_difference(frozen.dx, held.dx), tolerance);
    EXPECT_GT(relative_difference(own.dx, held.dx), 0.05);
  });
}

TEST(NormHook, RefusesWhatThereIsNoLayerFor) {
  const Device& device = harness::device();
  const Mixed network(device, DType::kF64);
  const Tensor x = drawn(device, DType::kF64, {2, 7, 3});
  NormHook six{std::vector<NormHook::Layer>(6)};
  EXPECT_EQ(error_of([&] { answer_of(network, x, &six); }),
            "norm_act: 6 layers are held, where there are 5");
  const Localizer plain(device, DType::kF64, {.depth = 4, .norm = NormKind::kNone}, 1);
  NormHook one{std::vector<NormHook::Layer>(1)};
  Tape tape(device, DType::kF64);
  EXPECT_EQ(
      error_of([&] {
        plain(tape.constant(Draw(1).tensor({1, 9, 1})), Statistics::kMinibatch, nullptr, &one);
      }),
      "norm_act: 1 layers are held, where there are 0");
  // Statistics of a layer of another width.
  NormHook wide{std::vector<NormHook::Layer>(1)};
  wide.layers[0].fixed = {Tensor::zeros(device, DType::kF64, {5}),
                          Tensor::zeros(device, DType::kF64, {5})};
  EXPECT_EQ(error_of([&] { answer_of(network, x, &wide); }),
            "norm_act_population: expected a mean and a variance of shape [6], got [5] and [5]");
  // Several sequences, several sets.
  NormHook seen;
  network(tape.constant(x), &seen);
  EXPECT_EQ(error_of([&] { statistics_of(seen); }),
            "frozen statistics: expected the 1 sequences of one set, got 2");
  ParameterList list(device, DType::kF64, 1);
  const NormAct pairs(list, "pairs", 3, {.positions_per_set = 2});
  NormHook of_pairs;
  pairs(tape.constant(Draw(1).tensor({1, 8, 3})), Statistics::kMinibatch, &of_pairs);
  EXPECT_EQ(error_of([&] { statistics_of(of_pairs); }),
            "frozen statistics: a layer over sets of 2 positions has several for a channel");
}

}  // namespace
}  // namespace sidechannel
