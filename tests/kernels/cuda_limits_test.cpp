// Sizes beyond what kernels and devices count, which no memory of today holds: refused in words
// before anything is launched, so the pointers may lead nowhere.

#include <gtest/gtest.h>

#include <string>

#include "kernels/activate.h"
#include "kernels/adam.h"
#include "kernels/conv1d.h"
#include "kernels/fill.h"
#include "kernels/linear.h"
#include "kernels/mse.h"
#include "kernels/norm_act.h"
#include "tests/harness/cuda_check.h"

namespace sidechannel::kernels {
namespace {

constexpr std::int64_t kBeyond32Bits = std::int64_t{1} << 32;

class CudaLimits : public harness::CudaTest {
 protected:
  template <class F>
  static void expect_refusal(const std::string& words, const F& f) {
    std::string message = "no error";
    try {
      f();
    } catch (const CudaError& error) {
      message = error.what();
    }
    EXPECT_NE(message.find(words), message.npos) << message;
  }
};

TEST_F(CudaLimits, NumbersThatKernelsCountIn32BitsAreRefused) {
  CudaQueue& queue = harness::cuda_queue();
  const std::string told = "4294967296 positions, channels or taps are more than kernels count";
  const Conv1dDims whole = {1, 8, 1, 1, 1, 0};
  for (const auto field : {&Conv1dDims::batch, &Conv1dDims::length, &Conv1dDims::channels_in,
                           &Conv1dDims::channels_out, &Conv1dDims::stride}) {
    Conv1dDims dims = whole;
    dims.*field = kBeyond32Bits;
    expect_refusal(told, [&] { run(queue, Conv1dForward<float>{.dims = dims}); });
    const GradOut<float> out = {reinterpret_cast<float*>(256)};
    expect_refusal(told, [&] { run(queue, Conv1dBackwardInput<float>{.dims = dims, .dx = out}); });
    expect_refusal(
        told, [&] { run(queue, Conv1dBackwardParams<float>{.dims = dims, .dw = out, .db = out}); });
  }
  const NormDims norm = {1, 2, kBeyond32Bits, 1, 1, 1e-5, Activation::kRelu};
  expect_refusal(told, [&] { run(queue, NormForward<float>{.dims = norm}); });
  expect_refusal(told, [&] { run(queue, NormPopulationForward<float>{.dims = norm}); });
}

TEST_F(CudaLimits, GridsBeyondADevicesCountAreRefused) {
  CudaQueue& queue = harness::cuda_queue();
  constexpr std::int64_t kElements = std::int64_t{1} << 42;  // 2^32 blocks of 1024
  const auto refused = [](const std::string& operation) {
    return "the launch of " + operation +
           " (grid 4294967296, block 256) was refused: " + "invalid configuration argument";
  };
  expect_refusal(refused("fill"),
                 [&] { fill(queue, kElements / 4, 0.0f, static_cast<float*>(nullptr)); });
  expect_refusal(refused("activate_forward"),
                 [&] { run(queue, ActivateForward<float>{.size = kElements}); });
  expect_refusal(refused("adam_update"),
                 [&] { run(queue, AdamUpdate<float>{.rule = {}, .size = kElements}); });
}

}  // namespace
}  // namespace sidechannel::kernels
