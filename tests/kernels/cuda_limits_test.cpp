// Sizes beyond what kernels and devices count, which no memory of today holds: refused in words
// before anything is launched, so the pointers may lead nowhere.

#include <gmock/gmock.h>

#include "kernels/adam.h"
#include "kernels/conv1d.h"
#include "kernels/fill.h"
#include "kernels/linear.h"
#include "kernels/mse.h"
#include "kernels/norm_act.h"
#include "kernels/relu.h"
#include "tests/harness/cuda_check.h"

namespace sidechannel::kernels {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kBeyond32Bits = std::int64_t{1} << 32;

class CudaLimits : public harness::CudaTest {
 protected:
  template <class F>
  static std::string refusal_of(const F& f) {
    try {
      f();
    } catch (const CudaError& error) {
      return error.what();
    }
    return "no error";
  }
};

TEST_F(CudaLimits, NumbersThatKernelsCountIn32BitsAreRefused) {
  CudaQueue& queue = harness::cuda_queue();
  const auto told = HasSubstr("4294967296 positions, channels or taps are more than kernels count");
  const Conv1dDims whole = {1, 8, 1, 1, 1, 0};
  for (const auto field : {&Conv1dDims::batch, &Conv1dDims::length, &Conv1dDims::channels_in,
                           &Conv1dDims::channels_out}) {
    Conv1dDims dims = whole;
    dims.*field = kBeyond32Bits;
    EXPECT_THAT(refusal_of([&] { run(queue, Conv1dForward<float>{.dims = dims}); }), told);
    const GradOut<float> out = {reinterpret_cast<float*>(256)};
    EXPECT_THAT(
        refusal_of([&] { run(queue, Conv1dBackwardInput<float>{.dims = dims, .dx = out}); }), told);
    EXPECT_THAT(refusal_of([&] {
                  run(queue, Conv1dBackwardParams<float>{.dims = dims, .dw = out, .db = out});
                }),
                told);
  }
  const NormDims norm = {1, 2, kBeyond32Bits, 1, 1, 1e-5, Activation::kRelu};
  EXPECT_THAT(refusal_of([&] { run(queue, NormForward<float>{.dims = norm}); }), told);
  EXPECT_THAT(refusal_of([&] { run(queue, NormPopulationForward<float>{.dims = norm}); }), told);
}

TEST_F(CudaLimits, GridsBeyondADevicesCountAreRefused) {
  CudaQueue& queue = harness::cuda_queue();
  float* const nowhere = nullptr;
  constexpr std::int64_t kElements = std::int64_t{1} << 42;  // 2^32 blocks of 1024
  const auto refused = [](const std::string& operation) {
    return HasSubstr("the launch of " + operation + " (grid 4294967296, block 256) was refused: " +
                     "invalid configuration argument");
  };
  EXPECT_THAT(refusal_of([&] { fill(queue, kElements / 4, 0.0f, nowhere); }), refused("fill"));
  EXPECT_THAT(refusal_of([&] { run(queue, ReluForward<float>{.size = kElements}); }),
              refused("relu_forward"));
  EXPECT_THAT(refusal_of([&] { run(queue, AdamUpdate<float>{.rule = {}, .size = kElements}); }),
              refused("adam_update"));
}

}  // namespace
}  // namespace sidechannel::kernels
