#include "engine/tensor.h"

#include <gtest/gtest.h>

#include "tests/harness/op_check.h"

namespace sidechannel {
namespace {

using harness::device;
using harness::error_of;
using harness::tensor_of;
using harness::values_of;

TEST(Shape, CountsItsElements) {
  EXPECT_EQ((Shape{2, 3, 4}.size()), 24);
  EXPECT_EQ(Shape{}.size(), 1);  // a scalar
  EXPECT_EQ((Shape{5, 0}.size()), 0);
  EXPECT_EQ((Shape{32, 600, 64}.str()), "[32, 600, 64]");
  EXPECT_EQ(Shape{}.str(), "[]");
  EXPECT_TRUE((Shape{2, 1} == Shape{2, 1}));
  EXPECT_FALSE((Shape{2, 1} == Shape{2}));
  EXPECT_FALSE((Shape{2} == Shape{3}));
}

TEST(Shape, RefusesWhatItCannotHold) {
  EXPECT_EQ(error_of([] { Shape{1, 2, 3, 4, 5}; }), "shape: at most 4 dimensions, got 5");
  EXPECT_EQ(error_of([] { Shape{2, -1}; }), "shape: dimensions must not be negative, got -1");
}

// No product of dimensions and the width of an element wraps, also where one of them is 0.
TEST(Shape, RefusesMoreBytesThanCanBeCounted) {
  constexpr std::int64_t kMost = std::int64_t{1} << 60;  // elements of 8 bytes, less one
  EXPECT_EQ(Shape{kMost - 1}.size(), kMost - 1);
  EXPECT_EQ((Shape{1 << 30, (1 << 30) - 1}.size()), (std::int64_t{1} << 60) - (1 << 30));
  const std::string most = ": expected at most 9223372036854775807 bytes, at 8 an element";
  EXPECT_EQ(error_of([] { Shape{kMost}; }), "shape [1152921504606846976]" + most);
  EXPECT_EQ(error_of([] { Shape{4 * kMost, 4}; }), "shape [4611686018427387904, 4]" + most);
  EXPECT_EQ(error_of([] { Shape{1 << 30, 1 << 30}; }), "shape [1073741824, 1073741824]" + most);
  EXPECT_EQ(error_of([] { Shape{kMost, 0}; }), "shape [1152921504606846976, 0]" + most);
  EXPECT_EQ(error_of([] { Shape{0, kMost}; }), "shape [0, 1152921504606846976]" + most);
  const auto shape = [](std::vector<std::uint64_t> dims) { return Shape(std::span(dims)); };
  EXPECT_EQ(error_of([&] { shape({~std::uint64_t{0}}); }), "shape [18446744073709551615]" + most);
  EXPECT_TRUE(shape({2, 3}) == (Shape{2, 3}));
}

TEST(HostArray, HoldsOneType) {
  const std::vector<double> values = {1, 2, 3, 4};
  const HostArray array = HostArray::from<double>(values, {2, 2});
  EXPECT_EQ(array.as<double>()[3], 4);
  EXPECT_EQ(error_of([&] { array.as<float>(); }), "array: holds f64, asked for f32");
  EXPECT_EQ(error_of([&] { HostArray::from<double>(values, {3}); }),
            "array: 4 values do not fill shape [3]");
}

TEST(Tensor, GoesToTheHostAndBack) {
  const Tensor x = tensor_of({1, -2, 3.5, 4, 5, 6}, {2, 3});
  EXPECT_TRUE(x);
  EXPECT_EQ(x.size(), 6);
  EXPECT_EQ(x.bytes(), 48u);
  EXPECT_TRUE((x.to_host().shape == Shape{2, 3}));
  EXPECT_EQ(values_of(x), (std::vector<double>{1, -2, 3.5, 4, 5, 6}));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(x.data<double>()) % 64, 0u);
  EXPECT_FALSE(Tensor());
}

TEST(Tensor, EmptyOnesAreTensorsToo) {
  const Tensor x(device(), DType::kF32, {0, 3});
  EXPECT_TRUE(x);
  EXPECT_EQ(x.size(), 0);
  x.fill(1);
  EXPECT_TRUE(x.to_host().bytes.empty());
  x.copy_from(x.to_host());
}

TEST(Tensor, CopiesSeeTheSameElements) {
  const Tensor x = Tensor::zeros(device(), DType::kF64, {4});
  const Tensor y = x;
  x.fill(2.5);
  EXPECT_EQ(values_of(y), (std::vector<double>{2.5, 2.5, 2.5, 2.5}));
}

TEST(Tensor, ViewsSeeTheSameElements) {
  const Tensor x = tensor_of({0, 1, 2, 3, 4, 5}, {2, 3});
  const Tensor tail = x.slice(2, 3);
  EXPECT_TRUE((tail.shape() == Shape{3}));
  EXPECT_EQ(values_of(tail), (std::vector<double>{2, 3, 4}));
  tail.fill(9);
  EXPECT_EQ(values_of(x.reshape({3, 2})), (std::vector<double>{0, 1, 9, 9, 9, 5}));
  EXPECT_EQ(x.slice(6, 0).size(), 0);
  // A view keeps the memory alive.
  Tensor view;
  {
    const Tensor owner = tensor_of({7, 8}, {2});
    view = owner.slice(1, 1);
  }
  EXPECT_EQ(view.item(), 8);
}

TEST(Tensor, GivesItsOnlyElement) {
  EXPECT_EQ(tensor_of({3}, {}).item(), 3);
  EXPECT_EQ(tensor_of({3}, {1, 1}).item(), 3);
  const Tensor single = Tensor::zeros(device(), DType::kF32, {1});
  single.fill(0.5);
  EXPECT_EQ(single.item(), 0.5);
}

TEST(Tensor, RefusesWhatDoesNotFit) {
  const Tensor x = Tensor::zeros(device(), DType::kF64, {2, 3});
  EXPECT_EQ(error_of([&] { x.data<float>(); }), "tensor: holds f64, asked for f32");
  EXPECT_EQ(error_of([&] { x.reshape({4}); }), "reshape: [4] does not hold the elements of [2, 3]");
  EXPECT_EQ(error_of([&] { x.slice(4, 3); }), "slice: 3 elements from 4 on of a tensor of 6");
  EXPECT_EQ(error_of([&] { x.slice(-1, 3); }), "slice: 3 elements from -1 on of a tensor of 6");
  EXPECT_EQ(error_of([&] { x.slice(2, -1); }), "slice: -1 elements from 2 on of a tensor of 6");
  EXPECT_EQ(error_of([&] {
              x.copy_from(Tensor::zeros(device(), DType::kF64, {3, 2}));
            }),
            "copy: f64 [3, 2] into f64 [2, 3]");
  EXPECT_EQ(error_of([&] {
              x.copy_from(HostArray(DType::kF32, {2, 3}));
            }),
            "copy: f32 [2, 3] into f64 [2, 3]");
  EXPECT_EQ(error_of([&] { x.item(); }), "item: expected one element, got shape [2, 3]");
  EXPECT_EQ(error_of([&] { Tensor(device(), DType::kI32, {2}).fill(1); }),
            "tensors compute in f32 or f64, not in i32");
}

TEST(Device, IsNamedOnTheCommandLine) {
  EXPECT_EQ(Device::from_name("cpu", 1).name(), "cpu");
  EXPECT_EQ(Device::from_name("cpu", 3).cpu_queue().threads(), 3);
  EXPECT_TRUE(Device::from_name("auto", 1) == Device(Device::cpu(1)) ||
              Device::from_name("auto", 1).name() == "cpu");
  EXPECT_EQ(error_of([] { Device::from_name("gpu"); }),
            "--device gpu: expected auto, cpu or cuda[:N]");
}

TEST(Device, CopiesShareAQueue) {
  const Device a = Device::cpu(1);
  const Device b = a;
  EXPECT_TRUE(a == b);
  EXPECT_FALSE(a == Device::cpu(1));
}

}  // namespace
}  // namespace sidechannel
