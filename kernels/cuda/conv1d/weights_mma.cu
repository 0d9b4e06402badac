// Parameter gradients of conv1d on tensor cores: C_in = C_out = h, 3 or 5 taps, fp32 sums, operands
// rounded to TF32 or, for fp32, split, first stage. The problem is defined in kernels.h, the kernel
// in device/weights_mma.cuh.

#include "kernels/cuda/conv1d/device/weights_mma.cuh"

#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/launch.h"

namespace sidechannel::kernels {
namespace {

using device::PlainInput;
using device::Split;
using device::WeightShape;

template <class S>
constexpr std::size_t kShared = sizeof(device::WeightMemory<S>);

template <class S>
void mma_weights(CudaQueue& queue, const WeightSums& p) {
  Launch how;
  how.grid = Grid{S::kChannels / S::kSlice, p.splits};
  how.block = dim3(device::kWeightThreads<S>);
  how.dynamic_shared = kShared<S>;
  constexpr const char* kName =
      S::kImages == 2 ? "conv1d weight gradient, split TF32" : "conv1d weight gradient, TF32";
  launch(queue, kName, device::mma_weights_kernel<S, PlainInput, 1>, how,
         device::WeightLayers<PlainInput, 1>{{{p, {}}}});
}

template <class S>
constexpr WeightVariant variant(const char* name) {
  constexpr bool kSplit = S::kImages == 2;
  return {name,
          Needs::tensor_cores(S::kChannels, S::kTaps, kSplit, kShared<S>),
          device::kWeightChunk,
          1,
          kSplit ? 2 : 1,
          [](const WeightSums&) { return std::int64_t{S::kChannels / S::kSlice}; },
          mma_weights<S>};
}

}  // namespace

const WeightVariant kMmaWeights[8] = {
    variant<WeightShape<64, 5>>("TF32 h = 64"),
    variant<WeightShape<32, 5>>("TF32 h = 32"),
    variant<WeightShape<64, 3>>("TF32 h = 64, 3 taps"),
    variant<WeightShape<32, 3>>("TF32 h = 32, 3 taps"),
    variant<Split<WeightShape<64, 5>>>("split TF32 h = 64"),
    variant<Split<WeightShape<32, 5>>>("split TF32 h = 32"),
    variant<Split<WeightShape<64, 3>>>("split TF32 h = 64, 3 taps"),
    variant<Split<WeightShape<32, 3>>>("split TF32 h = 32, 3 taps"),
};

}  // namespace sidechannel::kernels
