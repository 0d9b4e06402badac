// Perceptrons side by side: what the layers one by one give.

#include <gtest/gtest.h>

#include "engine/ops.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::clear_of;
using harness::Draw;
using harness::error_of;
using harness::values_of;

// x, w1, b1, w2, b2, w3, b3 of a network, in f64. The biases keep what comes before each ReLU clear
// of its kink.
std::vector<Tensor> network_of(std::int64_t rows, std::int64_t in, std::int64_t width,
                               std::uint64_t seed) {
  Draw draw(seed);
  const auto scaled = [&](Shape shape) {
    return draw.tensor(shape, 0,
                       1 / std::sqrt(static_cast<double>(std::max<std::int64_t>(shape[1], 1))));
  };
  std::vector<Tensor> all;
  all.reserve(7);  // below there are references to what stands in it
  all.push_back(draw.tensor({rows, in}));
  all.push_back(scaled({width, in}));
  Tape tape(harness::device(), DType::kF64);
  const auto add_bias = [&](const Tensor& x, const Tensor& w) {
    const Var before =
        linear(tape.constant(x), tape.constant(w),
               tape.constant(Tensor::zeros(harness::device(), DType::kF64, {width})));
    const std::vector<double> values = values_of(before.value());
    std::vector<double> bias;
    for (std::int64_t unit = 0; unit < width; ++unit) {
      std::vector<double> negated;
      for (std::int64_t row = 0; row < rows; ++row) {
        negated.push_back(-values[static_cast<std::size_t>(row * width + unit)]);
      }
      bias.push_back(clear_of(negated));
    }
    all.push_back(harness::tensor_of(bias, {width}));
    return relu(linear(tape.constant(x), tape.constant(w), tape.constant(all.back()))).value();
  };
  const Tensor h1 = add_bias(all[0], all[1]);
  all.push_back(scaled({width, width}));
  add_bias(h1, all[3]);
  all.push_back(scaled({1, width}));
  all.push_back(draw.tensor({1}));
  return all;
}

MlpParameters parameters_of(std::span<const Var> in) {
  return {in[1], in[2], in[3], in[4], in[5], in[6]};
}
Var one_by_one(std::span<const Var> in) {
  const Var h1 = linear(in[0], in[1], in[2], Activation::kRelu);
  const Var h2 = linear(h1, in[3], in[4], Activation::kRelu);
  return reshape(linear(h2, in[5], in[6]), {1, in[0].shape()[0]});
}

TEST(Mlp, Gradients) {
  Draw draw(1);
  for (std::uint64_t seed = 0; seed < 120; ++seed) {
    const std::int64_t rows = draw.pick({1, 2, 3, 7, 13}), in = draw.pick({1, 2, 3, 5, 8});
    const std::int64_t width = draw.pick({1, 2, 3, 5, 7, 9});
    harness::expect_gradients(
        [](Tape&, std::span<const Var> all) {
          return mlp(all.first(1), std::vector{parameters_of(all)});
        },
        network_of(rows, in, width, seed), {.seed = seed},
        fmt::format("{} x {} x {}", rows, in, width));
  }
}

// A tape with networks as leaves; x asks for no gradient.
struct Networks {
  Tape tape;
  std::vector<std::vector<Var>> in;
  std::vector<Var> x;
  std::vector<MlpParameters> parameters;

  Networks(const Device& device, DType type, std::size_t count, std::int64_t rows,
           std::int64_t inputs, std::int64_t width)
      : tape(device, type) {
    for (std::size_t i = 0; i < count; ++i) {
      std::vector<Var> all;
      for (const Tensor& tensor : network_of(rows, inputs, width, 100 + i)) {
        Tensor copy(device, type, tensor.shape());
        copy.copy_from(harness::array_of(values_of(tensor), type, tensor.shape()));
        all.push_back(all.empty() ? tape.constant(copy) : tape.leaf(copy));
      }
      in.push_back(all);
      x.push_back(all[0]);
      parameters.push_back(parameters_of(all));
    }
  }
  // Of the networks from `first` on, whose answers y are, from a drawn cotangent of each.
  std::vector<std::vector<double>> gradients(const Var& y, std::size_t first = 0) {
    const auto last = first + static_cast<std::size_t>(y.shape()[0]);
    std::vector<double> drawn;
    for (std::size_t i = first; i < last; ++i) {
      const auto own = Draw(5 + i).normals<double>(y.shape()[1]);
      drawn.insert(drawn.end(), own.begin(), own.end());
    }
    Tensor cotangent(y.device(), y.dtype(), y.shape());
    cotangent.copy_from(harness::array_of(drawn, y.dtype(), y.shape()));
    tape.backward(y, cotangent);
    std::vector<std::vector<double>> all;
    for (std::size_t i = first; i < last; ++i) {
      for (std::size_t j = 1; j < in[i].size(); ++j) {
        all.push_back(values_of(tape.gradient(in[i][j])));
      }
    }
    return all;
  }
};

// By the layers' kernels, where a device computes networks one at a time: the same bits.
TEST(Mlp, GivesTheBitsOfTheOperations) {
  for (const DType type : {DType::kF32, DType::kF64}) {
    for (const int threads : {1, 3}) {
      Networks apart(harness::device(), type, 1, 70, 5, 17);
      const Var expected = one_by_one(apart.in[0]);
      Networks networks(harness::device(threads), type, 1, 70, 5, 17);
      const Var y = mlp(networks.x, networks.parameters);
      EXPECT_EQ(values_of(y.value()), values_of(expected.value()));
      EXPECT_EQ(networks.gradients(y), apart.gradients(expected));
    }
  }
}

TEST(Mlp, SaysHowManyAreComputedAtOnce) {
  Networks networks(harness::device(), DType::kF32, 3, 4, 2, 3);
  EXPECT_EQ(mlps_at_once(networks.x, 2, 3), 1u);
  EXPECT_EQ(mlps_at_once(std::span<const Var>(), 2, 3), 0u);
  EXPECT_EQ(error_of([&] { mlp(networks.x, networks.parameters); }),
            "mlp: 3 networks are more than are computed at once here");
}

#if SIDECHANNEL_HAS_CUDA
class CudaMlp : public harness::CudaTest {};

// Together, in TF32, as one by one, where factors are rounded to TF32 likewise: each y and each
// gradient within what that may come to. A TF32 factor is off by 2^-11; on the way to dw1 there
// are six of them in each term (x and w1, h1 and w2; two of dy and w3 w2, or g1), and two more on
// the other side. Terms cancel: their sizes are about those of the largest entries, times the root
// of how many they are.
TEST_F(CudaMlp, ComputesTogetherWhatTheOperationsDo) {
  const Device& device = harness::cuda_device(Precision::kTf32);
  Networks together(device, DType::kF32, 3, 150, 64, 256);
  ASSERT_EQ(mlps_at_once(together.x, 64, 256), 3u);
  const std::size_t nodes = together.tape.mark().nodes;
  const Var y = mlp(together.x, together.parameters);
  EXPECT_EQ(together.tape.mark().nodes - nodes, 1u);
  const auto gradients = together.gradients(y);
  const auto answers = values_of(y.value());
  for (std::size_t i = 0; i < 3; ++i) {
    SCOPED_TRACE(i);
    Networks apart(device, DType::kF32, 3, 150, 64, 256);
    const Var expected = one_by_one(apart.in[i]);
    const auto close = [](const std::vector<double>& a, const std::vector<double>& b) {
      EXPECT_LE(harness::relative_difference(a, b), 8 * std::ldexp(1.0, -11));
    };
    close({answers.begin() + static_cast<std::ptrdiff_t>(150 * i),
           answers.begin() + static_cast<std::ptrdiff_t>(150 * (i + 1))},
          values_of(expected.value()));
    const auto of_network = apart.gradients(expected, i);
    for (std::size_t j = 0; j < of_network.size(); ++j) {
      SCOPED_TRACE(j);
      close(gradients[of_network.size() * i + j], of_network[j]);
    }
  }
}

// Layer by layer where that is asked for, or there is no kernel.
TEST_F(CudaMlp, TakesTheOperationsWhereItMust) {
  const auto count = [](Precision precision, std::int64_t in, std::int64_t width) {
    Networks networks(harness::cuda_device(precision), DType::kF32, 2, 3, in, width);
    return mlps_at_once(networks.x, in, width);
  };
  EXPECT_EQ(count(Precision::kTf32, 64, 256), 2u);
  EXPECT_EQ(count(Precision::kTf32, 32, 256), 2u);
  EXPECT_EQ(count(Precision::kFp32, 64, 256), 1u);
  EXPECT_EQ(count(Precision::kTf32, 48, 256), 1u);
  EXPECT_EQ(count(Precision::kTf32, 64, 128), 1u);

  const Device& device = harness::cuda_device(Precision::kTf32);
  Networks networks(device, DType::kF32, 2, 3, 64, 256);
  const Var leaf = networks.tape.leaf(networks.x[1].value());
  EXPECT_EQ(mlps_at_once(std::vector{networks.x[0], leaf}, 64, 256), 1u);
  int operations = 0;
  networks.tape.set_watch([&](const Var&, std::span<const Var>) { ++operations; });
  EXPECT_EQ(mlps_at_once(networks.x, 64, 256), 1u);
  mlp(std::span(networks.x).first(1), std::span(networks.parameters).first(1));
  EXPECT_EQ(operations, 4);
  networks.tape.set_watch({});
  // One bias for both layers.
  MlpParameters twice = networks.parameters[0];
  twice.b2 = twice.b1;
  const std::size_t nodes = networks.tape.mark().nodes;
  mlp(std::span(networks.x).first(1), std::vector{twice});
  EXPECT_EQ(networks.tape.mark().nodes - nodes, 4u);
}
#endif

TEST(Mlp, RefusesWrongShapes) {
  Tape tape(harness::device(), DType::kF64);
  const auto refused = [&](const std::vector<Shape>& shapes) {
    std::vector<Var> all;
    for (const Shape& shape : shapes) all.push_back(tape.make(shape));
    return error_of([&] { mlp(std::span(all).first(1), std::vector{parameters_of(all)}); });
  };
  EXPECT_EQ(refused({{7, 3}, {4, 3}, {4}, {4, 4}, {4}, {1, 4}, {1}}), "no error");
  EXPECT_EQ(refused({{7}, {4, 3}, {4}, {4, 4}, {4}, {1, 4}, {1}}),
            "mlp: expected x of shape [rows, in], got [7]");
  EXPECT_EQ(refused({{7, 3}, {4, 2}, {4}, {4, 4}, {4}, {1, 4}, {1}}),
            "mlp: expected w1 of shape [4, 3], got [4, 2]");
  EXPECT_EQ(refused({{7, 3}, {4, 3}, {4}, {4, 5}, {4}, {1, 4}, {1}}),
            "mlp: expected w2 of shape [4, 4], got [4, 5]");
  EXPECT_EQ(refused({{7, 3}, {4, 3}, {4}, {4, 4}, {3}, {1, 4}, {1}}),
            "mlp: expected b2 of shape [4], got [3]");
  EXPECT_EQ(refused({{7, 3}, {4, 3}, {4}, {4, 4}, {4}, {2, 4}, {1}}),
            "mlp: expected w3 of shape [1, 4], got [2, 4]");
  EXPECT_EQ(refused({{7, 3}, {4, 3}, {4}, {4, 4}, {4}, {1, 4}, {4}}),
            "mlp: expected b3 of shape [1], got [4]");
  const Var x = tape.make({7, 3});
  EXPECT_EQ(error_of([&] { mlp(std::vector{x}, {}); }),
            "mlp: expected an x for each of 0 networks, got 1");
}

}  // namespace
}  // namespace sidechannel
