// Parameter gradients of conv1d on tensor cores: C_in = C_out = h, 3 or 5 taps, TF32 operands, fp32
// sums, first stage. The problem is defined in kernels.h, the kernel in device/weights_mma.cuh.

#include "kernels/cuda/conv1d/device/weights_mma.cuh"

#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/launch.h"

namespace sidechannel::kernels {
namespace {

using device::PlainInput;
using device::WeightShape;

template <class S>
constexpr std::size_t kShared = sizeof(device::WeightMemory<S>);

template <class S>
void mma_weights(CudaQueue& queue, const WeightSums& p) {
  Launch how;
  how.grid = Grid{S::kChannels / S::kSlice, p.splits};
  how.block = dim3(device::kWeightThreads);
  how.dynamic_shared = kShared<S>;
  launch(queue, "conv1d weight gradient, TF32", device::mma_weights_kernel<S, PlainInput, 1>, how,
         device::WeightLayers<PlainInput, 1>{{{p, {}}}});
}

template <class S>
constexpr WeightVariant variant(const char* name) {
  return {name,
          Needs::hidden(S::kChannels, S::kTaps, Precision::kTf32, kShared<S>),
          device::kWeightChunk,
          1,
          1,
          [](const WeightSums&) { return std::int64_t{S::kChannels / S::kSlice}; },
          mma_weights<S>};
}

}  // namespace

const WeightVariant kMmaWeights[4] = {
    variant<WeightShape<64, 5>>("TF32 h = 64"),
    variant<WeightShape<32, 5>>("TF32 h = 32"),
    variant<WeightShape<64, 3>>("TF32 h = 64, 3 taps"),
    variant<WeightShape<32, 3>>("TF32 h = 32, 3 taps"),
};

}  // namespace sidechannel::kernels
