// Which kernels CUDA computes layers in a row with.

#include <gtest/gtest.h>

#include <map>

#include "tests/harness/conv_norm_act_case.h"

namespace sidechannel {
namespace {

using harness::RowCase;
using harness::RowOn;
using kernels::Precision;

class CudaConvNormActChoice : public harness::CudaTest {};

// By the size of the tiles, on a device of 132 multiprocessors, in fp32 as in TF32; and that the
// rows above take each.
TEST_F(CudaConvNormActChoice, GoesByPrecisionDeviceAndShape) {
  kernels::CudaDeviceInfo hopper, ada, turing;
  hopper.compute_capability = 90, hopper.multiprocessors = 132;
  hopper.shared_per_block = 227 * 1024;
  ada = hopper;
  ada.compute_capability = 89;
  turing.compute_capability = 75, turing.multiprocessors = 40, turing.shared_per_block = 64 * 1024;
  const auto all = [&](const kernels::CudaDeviceInfo& device, Precision precision,
                       const RowCase& c) {
    std::vector<kernels::ConvNormActLayer<float>> layers(1);
    layers[0].conv = c.conv(0);
    layers[0].norm = c.norm(0);
    return variants_of(device, precision, kernels::ConvNormActForward<float>{nullptr, layers});
  };
  const auto chosen = [&](const RowCase& c) {
    std::string in_tf32 = all(hopper, Precision::kTf32, c).at(0);
    EXPECT_EQ(all(hopper, Precision::kFp32, c).at(0), "split " + in_tf32);
    return in_tf32;
  };
  EXPECT_EQ(chosen({32, 600, 64, 5, 2}), "TF32 h = 64, 160 positions");
  EXPECT_EQ(chosen({32, 250, 64, 5, 2}), "TF32 h = 64, 64 positions");
  EXPECT_EQ(chosen({2, 20, 64, 5, 2}), "TF32 h = 64, 32 positions");
  EXPECT_EQ(chosen({32, 600, 32, 5, 2}), "TF32 h = 32, 160 positions");
  EXPECT_EQ(chosen({8, 64, 32, 5, 2}), "TF32 h = 32, 32 positions");
  EXPECT_EQ(chosen({32, 600, 64, 3, 1}), "TF32 h = 64, 3 taps, 160 positions");
  EXPECT_EQ(chosen({2, 20, 64, 3, 1}), "TF32 h = 64, 3 taps, 32 positions");
  EXPECT_EQ(chosen({32, 600, 32, 3, 1}), "TF32 h = 32, 3 taps, 160 positions");
  EXPECT_EQ(chosen({2, 20, 32, 3, 1}), "TF32 h = 32, 3 taps, 32 positions");
  const RowCase w1{32, 600, 64, 5, 2};
  EXPECT_EQ(all(ada, Precision::kTf32, w1).size(), 3);
  EXPECT_TRUE(all(ada, Precision::kFp32, w1).empty());
  EXPECT_TRUE(all(turing, Precision::kTf32, w1).empty());
  for (const RowCase& c : {RowCase{2, 20, 48, 5, 2}, RowCase{2, 20, 64, 7, 3},
                           RowCase{2, 20, 64, 5, 3}, RowCase{0, 20, 64, 5, 2}}) {
    EXPECT_TRUE(all(hopper, Precision::kTf32, c).empty()) << c.text();
  }

  std::map<std::string, int> taken;
  for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
    harness::for_rows<harness::OnCuda, float>(
        harness::cuda_queue(precision),
        [&](const RowCase&, const std::string& name) { ++taken[name]; });
  }
  EXPECT_EQ(taken.size(), 23);

  kernels::CudaQueue& queue = harness::cuda_queue();
  RowOn<harness::OnCuda, float> row(harness::kernel_rows()[0]);
  EXPECT_THROW(row.forward(queue, "none", row.x, row.calls()), std::logic_error);
  const harness::DeviceBuffer<float>::Misaligned misaligned;
  RowOn<harness::OnCuda, float> shifted(harness::kernel_rows()[0]);
  EXPECT_TRUE(harness::variants(queue, shifted.calls()).empty());
}

// What no GPU has run is taken where somebody asks for it; on Hopper alone, and where clusters
// divide the blocks.
TEST_F(CudaConvNormActChoice, TakesWgmmaWhereItIsAskedFor) {
  kernels::CudaDeviceInfo device = harness::cuda_queue(Precision::kTf32).info();
  const auto first = [&](int compute_capability, const RowCase& c) {
    device.compute_capability = compute_capability;
    std::vector<kernels::ConvNormActLayer<float>> layers(1);
    layers[0].conv = c.conv(0);
    layers[0].norm = c.norm(0);
    setenv("SIDECHANNEL_LAYERS", "wgmma", 1);
    std::string name =
        variants_of(device, Precision::kTf32, kernels::ConvNormActForward<float>{nullptr, layers})
            .at(0);
    unsetenv("SIDECHANNEL_LAYERS");
    return name;
  };
  EXPECT_EQ(first(90, {32, 600, 64, 5, 2}), "TF32 wgmma, 152 positions, clusters of 2");
  EXPECT_EQ(first(90, {32, 250, 64, 5, 2}), "TF32 wgmma, 64 positions, clusters of 2");
  EXPECT_EQ(first(90, {3, 20, 64, 5, 2}), "TF32 wgmma, 160 positions");
  EXPECT_EQ(first(90, {32, 600, 64, 3, 1}), "TF32 wgmma, 3 taps, 160 positions, clusters of 2");
  EXPECT_EQ(first(90, {32, 600, 32, 5, 2}), "TF32 h = 32, 160 positions");
  for (const int other : {80, 89, 100}) {
    EXPECT_EQ(first(other, {32, 600, 64, 5, 2}), "TF32 h = 64, 160 positions");
  }
}

// Where a set has more parts than a block should merge again and again.
TEST_F(CudaConvNormActChoice, LeavesSetsOfManyPartsAlone) {
  const auto computes = [](const RowCase& c) {
    std::vector<kernels::ConvNormActLayer<float>> layers(1);
    layers[0].conv = c.conv(0);
    layers[0].norm = c.norm(0);
    return !harness::variants(harness::cuda_queue(Precision::kTf32), layers).empty();
  };
  EXPECT_TRUE(computes({128, 20, 64, 5, 2, 1, 1, 128}));
  EXPECT_FALSE(computes({129, 20, 64, 5, 2, 1, 1, 129}));
}

}  // namespace
}  // namespace sidechannel
