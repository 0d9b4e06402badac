#include "engine/parameter.h"

#include <gtest/gtest.h>

#include <set>

#include "engine/io/safetensors.h"
#include "tests/harness/op_check.h"

namespace sidechannel {
namespace {

using harness::device;
using harness::error_of;
using harness::values_of;

// One of everything.
struct Model {
  explicit Model(std::uint64_t seed, DType dtype = DType::kF32) : list(device(), dtype, seed) {}
  ParameterList list;
  Parameter& conv = list.add_uniform("conv.weight", {3, 2, 4}, 0.5, Layout::kConv1dWeight);
  Parameter& bias = list.add_uniform("conv.bias", {4}, 0.5);
  Parameter& gamma = list.add_filled("norm.weight", {4}, 1);
  Constant& mean = list.add_constant("norm.running_mean", {4}, 0.25);
  Constant& variance = list.add_constant("norm.running_var", {4}, 1, Values::kNotNegative);

  std::map<std::string, HostArray> save() const {
    std::map<std::string, HostArray> tensors;
    list.save(tensors);
    return tensors;
  }
};

TEST(ParameterList, DrawsUniformInitialValues) {
  const Model model(1);
  for (double value : values_of(model.conv.value)) {
    EXPECT_GE(value, -0.5);
    EXPECT_LT(value, 0.5);
  }
  const auto values = values_of(model.conv.value);
  EXPECT_EQ(std::set<double>(values.begin(), values.end()).size(), values.size());
  EXPECT_EQ(values_of(model.gamma.value), (std::vector<double>{1, 1, 1, 1}));
  EXPECT_EQ(values_of(model.conv.grad), std::vector<double>(24, 0.0));
  EXPECT_EQ(model.list.size(), 24 + 4 + 4);  // constants are not learned

  // The seed, the stream and the place in the list decide.
  EXPECT_EQ(values_of(Model(1).conv.value), values);
  EXPECT_NE(values_of(Model(2).conv.value), values);
  ParameterList other(device(), DType::kF32, 1, Stream{2});
  EXPECT_NE(values_of(other.add_uniform("w", {3, 2, 4}, 0.5).value), values);
  EXPECT_NE(values_of(other.add_uniform("v", {3, 2, 4}, 0.5).value),
            values_of(other.parameters()[0].value));
  // In double the same numbers.
  EXPECT_EQ(values_of(Model(1, DType::kF64).conv.value), values);
}

TEST(ParameterList, FlatBuffersHoldEverything) {
  Model model(1);
  const auto before = model.save();
  model.bias.grad.fill(3);
  const ParameterList::Flat flat = model.list.flatten();
  EXPECT_EQ(flat.values.size(), 32);
  for (const auto& [name, array] : model.save()) EXPECT_EQ(array.bytes, before.at(name).bytes);
  EXPECT_EQ(model.bias.value.data<float>(), flat.values.data<float>() + 24);
  EXPECT_EQ(values_of(flat.grads.slice(24, 4)), (std::vector<double>{3, 3, 3, 3}));
  flat.values.fill(2);
  EXPECT_EQ(values_of(model.gamma.value), (std::vector<double>{2, 2, 2, 2}));
  EXPECT_EQ(values_of(model.mean.value), (std::vector<double>{0.25, 0.25, 0.25, 0.25}));
}

TEST(ParameterList, FilesHoldPyTorchsLayout) {
  Model model(1);
  for (std::int64_t i = 0; i < 24; ++i) model.conv.value.data<float>()[i] = static_cast<float>(i);
  const auto tensors = model.save();
  EXPECT_EQ(tensors.size(), 5u);
  const HostArray& weight = tensors.at("conv.weight");
  ASSERT_TRUE((weight.shape == Shape{4, 2, 3}));  // [C_out, C_in, k]
  for (std::size_t t = 0; t < 3; ++t) {
    for (std::size_t ci = 0; ci < 2; ++ci) {
      for (std::size_t co = 0; co < 4; ++co) {
        EXPECT_EQ(weight.as<float>()[(co * 2 + ci) * 3 + t],
                  static_cast<float>((t * 2 + ci) * 4 + co));
      }
    }
  }
  EXPECT_TRUE((tensors.at("norm.running_mean").shape == Shape{4}));
}

TEST(ParameterList, LoadsWhatItSaved) {
  for (DType dtype : {DType::kF32, DType::kF64}) {
    Model from(1, dtype);
    from.gamma.value.fill(1.5);
    from.mean.value.fill(-2);
    Model to(2, dtype);
    // Through the bytes of a file.
    const auto bytes = serialize_safetensors({from.save(), {}});
    to.list.load(parse_safetensors(bytes, "model").tensors, "model");
    for (const auto& [name, array] : to.save()) {
      EXPECT_EQ(array.bytes, from.save().at(name).bytes) << name;
    }
    EXPECT_EQ(values_of(to.conv.value), values_of(from.conv.value));
    EXPECT_EQ(values_of(to.mean.value), values_of(from.mean.value));
  }
}

TEST(ParameterList, LoadsIntoFlatBuffers) {
  const Model from(1);
  Model to(2);
  const ParameterList::Flat flat = to.list.flatten();
  to.list.load(from.save(), "model");
  EXPECT_EQ(values_of(flat.values.slice(0, 24)), values_of(from.conv.value));
}

TEST(ParameterList, RefusesAnotherModelsTensors) {
  Model model(1);
  const auto load = [&](auto change, LoadUnknown unknown = LoadUnknown::kRefuse) {
    auto tensors = model.save();
    change(tensors);
    const std::string message = error_of([&] { model.list.load(tensors, "runs/a/m", unknown); });
    return message.starts_with("runs/a/m: ") ? message.substr(10) : message;
  };
  const auto with = [&](const std::string& name, const HostArray& array,
                        LoadUnknown unknown = LoadUnknown::kRefuse) {
    return load([&](auto& t) { t[name] = array; }, unknown);
  };
  EXPECT_EQ(load([](auto&) {}), "no error");
  EXPECT_EQ(load([](auto& t) { t.erase("conv.bias"); }), "has no tensor conv.bias");
  EXPECT_EQ(load([](auto& t) { t.erase("norm.running_mean"); }), "has no tensor norm.running_mean");
  EXPECT_EQ(with("conv.weight", HostArray(DType::kF32, {3, 2, 4})),
            "conv.weight is f32 [3, 2, 4], expected f32 [4, 2, 3]");
  EXPECT_EQ(with("norm.weight", HostArray(DType::kF64, {4})),
            "norm.weight is f64 [4], expected f32 [4]");
  EXPECT_EQ(load([](auto& t) { t["norm.running_mean"].template as<float>()[3] = -1; }), "no error");
  EXPECT_EQ(load([](auto& t) { t["norm.running_var"].template as<float>()[3] = -1; }),
            "tensor norm.running_var holds -1, expected at least 0");
  // Whatever a file calls its tensors, the message is one short line.
  const HostArray one(DType::kF32, {1});
  for (const auto& [name, shown] : std::map<std::string, std::string>{
           {"head.weight", "head.weight"},
           {std::string("a\0b\n\x1b[31m", 9), "\"a\\x00b\\x0a\\x1b[31m\""},
           {"a\u202eb", "\"a\\xe2\\x80\\xaeb\""},
           {std::string(5000, 'x'), '"' + std::string(40, 'x') + "\"..."}}) {
    EXPECT_EQ(with(name, one), "has a tensor " + shown + " that the model does not have");
  }
  EXPECT_EQ(with("head.weight", one, LoadUnknown::kIgnore), "no error");
  EXPECT_EQ(with("norm.num_batches_tracked", one), "no error");  // PyTorch's count
}

TEST(ParameterList, RefusesTwoOfOneName) {
  ParameterList list(harness::device(), DType::kF32, 0);
  list.add_filled("a", {1}, 0);
  list.add_constant("b", {1}, 0);
  for (const char* name : {"a", "b"}) {
    const std::string message = fmt::format("parameters: there are two of the name {}", name);
    EXPECT_EQ(error_of([&] { list.add_filled(name, {1}, 0); }), message);
    EXPECT_EQ(error_of([&] { list.add_constant(name, {1}, 0); }), message);
  }
}

TEST(ParameterList, AFileThatIsRefusedChangesNothing) {
  ParameterList list(harness::device(), DType::kF32, 0);
  const Tensor first = list.add_filled("first", {1}, 7).value;
  list.add_filled("second", {1}, 8);
  std::map<std::string, HostArray> tensors{{"first", HostArray(DType::kF32, {1})}};
  EXPECT_EQ(error_of([&] { list.load(tensors, "file"); }), "file: has no tensor second");
  EXPECT_EQ(first.item(), 7);
}

TEST(ReverseAxes, IsItsOwnInverse) {
  std::vector<float> values(30);
  for (std::size_t i = 0; i < 30; ++i) values[i] = static_cast<float>(i);
  const HostArray array = HostArray::from<float>(values, {2, 3, 5});
  const HostArray reversed = reverse_axes(array);
  EXPECT_TRUE((reversed.shape == Shape{5, 3, 2}));
  EXPECT_EQ(reversed.as<float>()[(4 * 3 + 2) * 2 + 1], array.as<float>()[(1 * 3 + 2) * 5 + 4]);
  EXPECT_EQ(reverse_axes(reversed).bytes, array.bytes);
  EXPECT_EQ(error_of([] {
              reverse_axes(HostArray(DType::kF32, {2, 3}));
            }),
            "reverse_axes: expected three axes, got [2, 3]");
}

}  // namespace
}  // namespace sidechannel
