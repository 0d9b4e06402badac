#include "engine/modules.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/harness/op_check.h"

// Convolutions as modules: what they begin with, what files hold of them, what they compute. Those
// of stride 1 are models' (tests/models/).

namespace sidechannel {
namespace {

using harness::device;
using harness::Draw;
using harness::values_of;

ParameterList new_list(std::uint64_t seed = 1) {
  return {device(), DType::kF64, seed};
}

// All within the bound, and many enough that some come near it.
void expect_uniform(const Tensor& tensor, double bound) {
  const std::vector<double> values = values_of(tensor);
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  EXPECT_GE(*least, -bound);
  EXPECT_LT(*most, bound);
  EXPECT_LT(*least, -0.8 * bound);
  EXPECT_GT(*most, 0.8 * bound);
}

TEST(Modules, ConvolutionsBeginAsPyTorchs) {
  ParameterList list = new_list();
  const Conv1d down(list, "down", 6, 50, 3, 1, {.stride = 2});
  const ConvTranspose1d up(list, "up", 7, 60, 4, 1, 2);
  const ConvTranspose1d without(list, "without", 7, 60, 4, 1, 2, InitialBiases::kZero);
  const auto& p = list.parameters();
  ASSERT_EQ(p.size(), 6u);
  EXPECT_EQ(p[0].name, "down.weight");
  EXPECT_EQ(p[1].name, "down.bias");
  EXPECT_EQ(p[2].name, "up.weight");
  EXPECT_EQ(p[3].name, "up.bias");
  for (const std::size_t i : {0, 1}) expect_uniform(p[i].value, 1 / std::sqrt(6.0 * 3));
  for (const std::size_t i : {2, 3, 4}) expect_uniform(p[i].value, 1 / std::sqrt(60.0 * 4));
  EXPECT_EQ(values_of(p[5].value), std::vector<double>(60, 0.0));
}

TEST(Modules, FilesHoldPyTorchsLayouts) {
  ParameterList list = new_list();
  const Conv1d down(list, "down", 2, 5, 3, 1, {.stride = 2});
  const ConvTranspose1d up(list, "up", 2, 5, 4, 1, 2);
  const TensorMap tensors = harness::saved(list);
  EXPECT_EQ(tensors.at("down.weight").shape, (Shape{5, 2, 3}));
  EXPECT_EQ(tensors.at("down.bias").shape, (Shape{5}));
  const HostArray& weight = tensors.at("up.weight");
  ASSERT_EQ(weight.shape, (Shape{2, 5, 4}));  // [C_in, C_out, k]
  EXPECT_EQ(tensors.at("up.bias").shape, (Shape{5}));
  const std::vector<double> memory = values_of(list.parameters()[2].value);
  for (std::size_t ci = 0; ci < 2; ++ci) {
    for (std::size_t co = 0; co < 5; ++co) {
      for (std::size_t t = 0; t < 4; ++t) {
        EXPECT_EQ(weight.as<double>()[(ci * 5 + co) * 4 + t], memory[(t * 5 + co) * 2 + ci]);
      }
    }
  }
  ParameterList other = new_list(2);
  const Conv1d other_down(other, "down", 2, 5, 3, 1, {.stride = 2});
  const ConvTranspose1d other_up(other, "up", 2, 5, 4, 1, 2);
  other.load(tensors, "file");
  EXPECT_EQ(values_of(other.parameters()[2].value), memory);
}

TEST(Modules, ConvolutionsComputeTheOperations) {
  ParameterList list = new_list();
  const Conv1d down(list, "down", 3, 4, 5, 2, {PaddingMode::kCircular, InitialBiases::kUniform, 2});
  const ConvTranspose1d up(list, "up", 4, 3, 4, 1, 2);
  auto& p = list.parameters();
  Tape tape(device(), DType::kF64);
  const Var x = tape.constant(Draw(1).tensor({2, 12, 3}));
  const auto parameter = [&](std::size_t i) { return tape.parameter(p[i]); };
  const Var z = down(x), y = up(z);
  EXPECT_EQ(z.shape(), (Shape{2, 6, 4}));
  EXPECT_EQ(y.shape(), x.shape());
  const Var z_op = conv1d(x, parameter(0), parameter(1), 2, {PaddingMode::kCircular, 2});
  EXPECT_EQ(values_of(z.value()), values_of(z_op.value()));
  EXPECT_EQ(values_of(y.value()),
            values_of(conv_transpose1d(z_op, parameter(2), parameter(3), 1, 2).value()));
}

// Layers in a row take strides too, one by one.
TEST(Modules, LayersInARowMayHaveStrides) {
  ParameterList list = new_list();
  const ConvNormAct layers(list, "blocks", 2, 4, 3, 1, NormOptions(), false, {.stride = 2});
  auto& p = list.parameters();
  Tape tape(device(), DType::kF64);
  Var x = tape.constant(Draw(1).tensor({2, 12, 4}));
  const Var y = layers(x, Statistics::kMinibatch);
  EXPECT_EQ(y.shape(), (Shape{2, 3, 4}));
  for (std::size_t i = 0; i < 8; i += 4) {
    const auto parameter = [&](std::size_t j) { return tape.parameter(p[i + j]); };
    x = norm_act(conv1d(x, parameter(0), parameter(1), 1, {.stride = 2}), parameter(2),
                 parameter(3), NormOptions());
  }
  EXPECT_EQ(values_of(y.value()), values_of(x.value()));
}

}  // namespace
}  // namespace sidechannel
