// Every operation with nothing in it, on any device: tensors of which an axis is 0.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "engine/moments.h"
#include "engine/ops.h"
#include "engine/optim/adam.h"
#include "engine/optim/ema.h"
#include "engine/sinusoidal_table.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::values_of;
using enum kernels::Activation;

// Runs f on tensors of these shapes, all 0.5, forward and backward with a cotangent of ones, once
// with gradients overwritten and once with them added to what stands there. y is `expected`
// everywhere. The gradient of input i is expected_gradients[i] everywhere: 0 where none is named.
void check_empty(const Device& device, DType dtype, const std::string& name,
                 const std::vector<Shape>& shapes,
                 const std::function<Var(const std::vector<Var>&)>& f, double expected = 0,
                 const std::vector<double>& expected_gradients = {}) {
  ParameterList list(device, dtype, 1);
  std::vector<Parameter*> inputs;
  std::string text = name;
  for (const Shape& shape : shapes) {
    inputs.push_back(&list.add_filled(std::to_string(inputs.size()), shape, 0.5));
    text += " " + shape.str();
  }
  SCOPED_TRACE(text + " on " + device.name());
  for (const kernels::Write write : {kernels::Write::kOverwrite, kernels::Write::kAccumulate}) {
    Tape tape(device, dtype);
    std::vector<Var> in;
    for (Parameter* input : inputs) {
      input->grad.fill(7);
      in.push_back(tape.parameter(*input));
    }
    const Var y = f(in);
    for (const double value : values_of(y.value())) ASSERT_EQ(value, expected);
    const Tensor ones(device, dtype, y.shape());
    ones.fill(1);
    tape.backward(y, ones, write);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const double before = write == kernels::Write::kAccumulate ? 7 : 0;
      const double gradient = i < expected_gradients.size() ? expected_gradients[i] : 0;
      for (const double value : values_of(inputs[i]->grad)) {
        ASSERT_EQ(value, before + gradient) << "gradient of input " << i;
      }
    }
  }
}

// These dims, with each combination of axes set to 0 but the one of none.
std::vector<Shape> with_zeros(const Shape& shape) {
  std::vector<Shape> all;
  for (int mask = 1; mask < 1 << shape.rank(); ++mask) {
    std::vector<std::int64_t> dims(shape.begin(), shape.end());
    for (std::size_t axis = 0; axis < dims.size(); ++axis) {
      if (mask >> axis & 1) dims[axis] = 0;
    }
    all.emplace_back(std::span<const std::int64_t>(dims));
  }
  return all;
}

void check_empty_operations(const Device& device, DType dtype) {
  const auto check = [&](auto&&... arguments) { check_empty(device, dtype, arguments...); };
  using In = const std::vector<Var>&;

  for (const Shape& x : with_zeros({2, 6, 4})) {
    const std::int64_t n = x[0], length = x[1], channels = x[2];
    const Shape of_channels{channels};
    for (const kernels::Activation activation : {kNone, kRelu, kMish}) {
      for (const auto& [set_channels, set_samples] :
           {std::pair{1, 1}, std::pair{2, 1}, std::pair{4, 1}, std::pair{1, 2}}) {
        NormOptions options = {.channels_per_set = set_channels,
                               .samples_per_set = set_samples,
                               .activation = activation};
        check("norm_act", std::vector{x, of_channels, of_channels},
              [&](In in) { return norm_act(in[0], in[1], in[2], options); });
        options.centred = false;
        check("norm_act, RMS", std::vector{x, of_channels, of_channels},
              [&](In in) { return norm_act(in[0], in[1], in[2], options); });
        options.centred = true;
        RunningStatistics running{Tensor(device, dtype, of_channels),
                                  Tensor(device, dtype, of_channels)};
        running.mean.fill(3);
        running.variance.fill(4);
        options.update = &running;
        check("norm_act, running", std::vector{x, of_channels, of_channels},
              [&](In in) { return norm_act(in[0], in[1], in[2], options); });
        for (const double value : values_of(running.mean)) EXPECT_EQ(value, 3);
        for (const double value : values_of(running.variance)) EXPECT_EQ(value, 4);
        check("norm_act_population", std::vector{x, of_channels, of_channels}, [&](In in) {
          return norm_act_population(in[0], in[1], in[2], running.mean, running.variance, options);
        });
      }
    }
    check("activate", std::vector{x}, [](In in) { return activate(in[0], kMish); });
    if (length > 0) {
      check("circular_pad", std::vector{x}, [](In in) { return circular_pad(in[0], 2, 1); });
    }
    check("add", std::vector{x, x}, [](In in) { return add(in[0], in[1]); });
    check("add, rows", std::vector{x, Shape{n, channels}}, [](In in) { return add(in[0], in[1]); });
    // What is beside no channels is all there is.
    check(
        "concat", std::vector{x, Shape{n, length, 3}}, [](In in) { return concat(in[0], in[1]); },
        0.5, std::vector<double>{0, 1});
    check("weighted_sum", std::vector{x, x}, [&](In in) {
      const Var w = in[0].tape().constant(Tensor::zeros(device, dtype, {n}));
      const WeightedTerm terms[] = {{w, in[0]}, {w, in[1]}};
      return weighted_sum(terms, {Tensor::zeros(device, dtype, {length, channels}), in[1]});
    });
    check("reshape", std::vector{x}, [&](In in) {
      return reshape(in[0], Shape{channels, length, n, 1});
    });
    for (const std::int64_t channels_out : {0, 1, 3, 4}) {
      for (const std::int64_t taps : {1, 3, 5}) {
        const std::int64_t padding = (taps - 1) / 2;
        const Shape w{taps, channels, channels_out}, b{channels_out};
        // An output is its bias where there is nothing to add, and none where x has no positions.
        for (const PaddingMode mode : {PaddingMode::kZeros, PaddingMode::kCircular}) {
          check(
              "conv1d", std::vector{x, w, b},
              [&](In in) { return conv1d(in[0], in[1], in[2], padding, {mode}); }, 0.5,
              std::vector<double>{0, 0, static_cast<double>(n * length)});
        }
        for (const std::int64_t stride : {1, 2}) {
          const std::int64_t positions = (length - 1) * stride + 1;
          if (positions < 0) continue;
          check(
              "conv_transpose1d",
              std::vector{x, Shape{taps, channels_out, channels}, Shape{channels_out}},
              [&](In in) { return conv_transpose1d(in[0], in[1], in[2], padding, stride); }, 0.5,
              std::vector<double>{0, 0, static_cast<double>(n * positions)});
        }
        if (channels_out != channels) continue;
        for (const std::int64_t samples : {1, 2}) {
          check("conv_norm_act", std::vector{x, w, b, b, b}, [&](In in) {
            const std::vector<ConvNormActParameters> layers{
                {in[1], in[2], {{in[3], in[4], nullptr}}}, {in[1], in[2], {}}};
            return conv_norm_act(in[0], layers, padding, {.samples_per_set = samples});
          });
        }
      }
    }
  }
  for (const std::int64_t channels : {1, 3, 4}) {
    const Shape x{2, 6, channels}, w{5, channels, 0}, b{0};
    check("conv1d to no channels", std::vector{x, w, b},
          [](In in) { return conv1d(in[0], in[1], in[2], 2); });
    check("conv_transpose1d of nothing",
          std::vector{Shape{2, 0, channels}, Shape{4, 3, channels}, Shape{3}},
          [](In in) { return conv_transpose1d(in[0], in[1], in[2], 1, 2); });
    // Three outputs that no position reaches.
    check(
        "conv_transpose1d of a bias",
        std::vector{Shape{2, 0, channels}, Shape{5, 3, channels}, Shape{3}},
        [](In in) { return conv_transpose1d(in[0], in[1], in[2], 0, 2); }, 0.5,
        std::vector<double>{0, 0, 2 * 3});
    // Four outputs that see padding alone.
    const Shape none{2, 0, channels}, to_one{5, channels, 1}, to_three{5, channels, 3};
    for (const Shape& weight : {to_one, to_three}) {
      check(
          "conv1d of padding", std::vector{none, weight, Shape{weight[2]}},
          [](In in) { return conv1d(in[0], in[1], in[2], 4); }, 0.5,
          std::vector<double>{0, 0, 2 * 4});
    }
  }
  for (const Shape& x : with_zeros({3, 4})) {
    for (const std::int64_t out : {0, 1, 5}) {
      for (const kernels::Activation activation : {kNone, kRelu}) {
        check(
            "linear", std::vector{x, Shape{out, x[1]}, Shape{out}},
            [&](In in) { return linear(in[0], in[1], in[2], activation); }, 0.5,
            std::vector<double>{0, 0, static_cast<double>(x[0])});
      }
    }
  }
  check("linear to nothing", std::vector{Shape{3, 4}, Shape{0, 4}, Shape{0}},
        [](In in) { return linear(in[0], in[1], in[2]); });
  check("windows", std::vector{Shape{0, 9}}, [](In in) { return windows(in[0], 3, 5, 2); });
  for (const Shape& x : {Shape{0}, Shape{0, 7, 1}, Shape{4, 0}}) {
    for (const Shape& target : {Shape{0}, Shape{7}}) {
      check("mse", std::vector{x},
            [&](In in) { return mse(in[0], Tensor::zeros(device, dtype, target)); });
      check("mse, weighted", std::vector{x}, [&](In in) {
        const Tensor zeros = Tensor::zeros(device, dtype, target);
        return mse(in[0], zeros, zeros);
      });
    }
  }

  // What is not on a tape.
  Tape tape(device, dtype);
  for (const Shape& shape : with_zeros({2, 6})) {
    SCOPED_TRACE(shape.str());
    const Random random(device, 1);
    EXPECT_EQ(tape.normal(shape, Stream::kNoise, random).size(), 0);
    Tensor(device, dtype, shape).fill(1);
    EXPECT_EQ(Tensor::zeros(device, dtype, shape).to_host().shape, shape);
    StreamingMoments moments(device, shape[1]);
    moments.add(Tensor(device, dtype, shape));
    EXPECT_EQ(moments.count(), shape[0]);
    const HostArray variance = moments.variance();
    for (const double value : variance.as<double>()) EXPECT_EQ(value, 0);
  }
  const auto zeros = [&](Shape shape) { return Tensor::zeros(device, dtype, shape); };
  EXPECT_EQ(tape.uniform_integers(0, 5, Stream::kNoise, Random(device, 1)).size(), 0);
  for (const std::int64_t rows : {0, 2}) {
    const Var index = tape.constant(zeros({rows}));
    EXPECT_EQ(gather(zeros({3, 0}), index).shape(), (Shape{rows, 0}));
    EXPECT_EQ(gather_windows(zeros({3, 5, 0}), index, 2).shape(), (Shape{rows, 2, 0}));
  }
  EXPECT_EQ(gather(zeros({3, 4}), tape.constant(zeros({0}))).shape(), (Shape{0, 4}));
  EXPECT_EQ(sinusoidal_table(device, dtype, 0, 4).shape(), (Shape{0, 4}));
  ParameterList none(device, dtype, 1);
  none.add_uniform("none", {0, 3}, 1);
  Adam adam(none, AdamRule());
  adam.step();
  EXPECT_EQ(adam.steps(), 1);
  EXPECT_EQ(adam.gradient_norm(), 0);
  Ema ema(none, 0.9);
  ema.update();
  EXPECT_EQ(ema.average().size(), 0);
}

// Nothing in, nothing out; sums over nothing are 0; no crash, no NaN.
BACKEND_TEST(Empty, EveryOperationTakesTensorsWithoutElements) {
  Backend::for_devices(check_empty_operations);
}

}  // namespace
}  // namespace sidechannel
