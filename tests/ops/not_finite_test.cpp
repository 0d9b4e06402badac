// What one number that is not finite becomes in every operation, on any device: NaN where the
// definition says so, and nowhere else. A maximum that drops NaN would hide that a training failed.

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "engine/ops.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::values_of;
using enum kernels::Activation;

void check_not_finite(const Device& device, DType dtype) {
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const auto tensor = [&](Shape shape, std::uint64_t seed, std::int64_t at = -1, double value = 0) {
    std::vector<double> values = Draw(seed).normals<double>(shape.size());
    if (at >= 0) values[static_cast<std::size_t>(at)] = value;
    return Tensor::from(device, harness::array_of(values, dtype, shape));
  };
  // y, and behind it the gradient of the first input, are NaN where `spoiled` says so.
  using Spoiled = std::function<bool(std::int64_t)>;
  const auto check = [&](const std::string& name, const Var& x, const Var& y,
                         const Spoiled& spoiled, const Spoiled& spoiled_gradient = nullptr) {
    SCOPED_TRACE(name + " " + x.shape().str() + " on " + device.name());
    const std::vector<double> values = values_of(y.value());
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(std::isnan(values[i]), spoiled(static_cast<std::int64_t>(i))) << "y[" << i << "]";
    }
    if (!spoiled_gradient) return;
    y.tape().backward(y, tensor(y.shape(), 9));
    const std::vector<double> gradient = values_of(x.tape().gradient(x));
    for (std::size_t i = 0; i < gradient.size(); ++i) {
      ASSERT_EQ(std::isnan(gradient[i]), spoiled_gradient(static_cast<std::int64_t>(i)))
          << "dx[" << i << "]";
    }
  };

  // Channels that fill vectors of every width, and some that do not; whole sets and chunks.
  for (const std::int64_t channels : {1, 3, 20, 67}) {
    for (const std::int64_t length : {5, 700, 9001}) {
      if (length * channels > 50000) continue;
      const Shape shape{2, length, channels};
      const std::int64_t place = (length + 2) * channels + channels / 2;  // in the second sample
      for (const double value : {kNaN, kInfinity, -kInfinity}) {
        for (const kernels::Activation activation : {kNone, kRelu, kMish}) {
          for (const auto& [layer, centred] :
               {std::pair{false, true}, {true, true}, {true, false}}) {
            Tape tape(device, dtype);
            const Var x = tape.leaf(tensor(shape, 1, place, value));
            const Var gamma = tape.constant(tensor({channels}, 2));
            const Var beta = tape.constant(tensor({channels}, 3));
            const NormOptions options = {.channels_per_set = layer ? channels : 1,
                                         .activation = activation,
                                         .centred = centred};
            const auto in_set = [&, whole = layer](std::int64_t i) {
              return i / channels >= length && (whole || i % channels == place % channels);
            };
            check("norm_act", x, norm_act(x, gamma, beta, options), in_set, in_set);
          }
          if (activation == kMish && std::isinf(value)) continue;  // -infinity times 0 is NaN
          Tape tape(device, dtype);
          const Var x = tape.leaf(tensor(shape, 1, place, value));
          const Tensor mean = tensor({channels}, 4);
          Tensor variance(device, dtype, {channels});
          variance.fill(2);
          const NormOptions options = {.activation = activation};
          const Var y =
              norm_act_population(x, tape.constant(tensor({channels}, 2)),
                                  tape.constant(tensor({channels}, 3)), mean, variance, options);
          check("norm_act_population", x, y,
                [&](std::int64_t i) { return i == place && std::isnan(value); });
        }
      }
    }
  }
  for (const std::int64_t size : {1, 3, 16, 67}) {
    for (const double value : {kNaN, kInfinity, -kInfinity}) {
      Tape tape(device, dtype);
      const std::int64_t place = size / 2;
      const Var x = tape.leaf(tensor({size}, 1, place, value));
      const Var y = relu(x);
      check("relu", x, y, [&](std::int64_t i) { return i == place && std::isnan(value); });
      if (std::isinf(value)) {
        EXPECT_EQ(values_of(y.value())[static_cast<std::size_t>(place)], std::max(value, 0.0));
      }
    }
  }
  for (const std::int64_t in : {1, 5, 20}) {
    for (const std::int64_t out : {1, 3, 20, 67}) {
      for (const kernels::Activation activation : {kNone, kRelu}) {
        const Shape x_shape{9, in};
        for (const int part : {0, 1, 2}) {  // in x, in the weight, in the bias
          Tape tape(device, dtype);
          const std::int64_t row = 4, column = out / 2;
          const Var x = tape.leaf(tensor(x_shape, 1, part == 0 ? row * in : -1, kNaN));
          const Var w = tape.constant(tensor({out, in}, 2, part == 1 ? column * in : -1, kNaN));
          const Var b = tape.constant(tensor({out}, 3, part == 2 ? column : -1, kNaN));
          check("linear", x, linear(x, w, b, activation),
                [&](std::int64_t i) { return part == 0 ? i / out == row : i % out == column; });
        }
      }
    }
  }
  for (const std::int64_t channels : {1, 3, 32}) {
    for (const std::int64_t channels_out : {1, 5, 32}) {
      const std::int64_t length = 70, position = 11;
      Tape tape(device, dtype);
      const Var x = tape.leaf(tensor({2, length, channels}, 1, position * channels, kNaN));
      const Var y = conv1d(x, tape.constant(tensor({5, channels, channels_out}, 2)),
                           tape.constant(tensor({channels_out}, 3)), 2);
      check("conv1d", x, y, [&](std::int64_t i) {
        return std::abs(i / channels_out - position) <= 2;  // of the first sample
      });
    }
  }
  Tape tape(device, dtype);
  const Var x = tape.leaf(tensor({2, 9}, 1, 3, kNaN));
  check("windows", x, windows(x, 3, 5, 2), [](std::int64_t i) { return i == 3 || i == 5 + 1; });
  check("mse", x, mse(x, tensor({2, 9}, 2)), [](std::int64_t) { return true; });
}

BACKEND_TEST(NotFinite, NaNAndInfinitySpoilWhatDependsOnThemAndNothingElse) {
  Backend::for_devices(check_not_finite);
}

}  // namespace
}  // namespace sidechannel
