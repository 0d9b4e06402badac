// The parameter gradients of layers in a row on tensor cores, first stage, in as few launches as
// their arguments fit into: conv1d/device/weights_mma.cuh, with x computed again from the y of the
// layer below.

#include <algorithm>

#include "kernels/cuda/conv1d/device/weights_mma.cuh"
#include "kernels/cuda/conv_norm_act/device/layer.cuh"
#include "kernels/cuda/conv_norm_act/kernels.h"
#include "kernels/cuda/launch.h"

namespace sidechannel::kernels {
namespace {

using device::Split;
using device::WeightShape;

template <int kChannels>
struct ActivatedInput {
  bool plain;  // x stands in memory
  int set_samples;
  bool normalized;
  const float *gamma, *beta;
  NormStatistics<float> statistics;

  struct Constants {
    bool plain;
    float4 mean, scale, shift;

    __device__ __forceinline__ Constants(const ActivatedInput& input, int n, int channel)
        : plain(input.plain) {
      mean = shift = make_float4(0, 0, 0, 0);
      scale = make_float4(1, 1, 1, 1);
      if (plain || !input.normalized) return;
      const int at = n / input.set_samples * kChannels + channel;
      const auto gather = [](const float* from) {
        return make_float4(from[0], from[1], from[2], from[3]);
      };
      mean = gather(input.statistics.mean + at);
      const float4 rest = gather(input.statistics.mean_rest + at);
      const float4 rstd = gather(input.statistics.rstd + at);
      const float4 gamma = gather(input.gamma + channel);
      scale = make_float4(rstd.x * gamma.x, rstd.y * gamma.y, rstd.z * gamma.z, rstd.w * gamma.w);
      shift = device::multiply_add(device::negate(rest), scale, gather(input.beta + channel));
    }
    __device__ __forceinline__ float4 value(const float4& y) const {
      if (plain) return y;
      return device::activate_each<kLayerActivation>(
          device::multiply_add(device::subtract(y, mean), scale, shift));
    }
  };
};

template <class S>
void run_layers(CudaQueue& queue, View<LayerWeights> layers) {
  using Input = ActivatedInput<S::kChannels>;
  const std::size_t launches = (layers.size() + kMostWeightLayers - 1) / kMostWeightLayers;
  for (std::size_t i = 0; i < launches; ++i) {
    const std::size_t first = layers.size() * i / launches;
    const std::size_t count = layers.size() * (i + 1) / launches - first;
    device::WeightLayers<Input, kMostWeightLayers> arguments = {};
    for (std::size_t j = 0; j < count; ++j) {
      const auto& [sums, below] = layers[first + j];
      arguments.at[j].sums = sums;
      arguments.at[j].input.plain = below == nullptr;
      if (below == nullptr) continue;
      arguments.at[j].input = {false,        below->set_samples, below->normalized,
                               below->gamma, below->beta,        below->statistics};
    }
    Launch how;
    how.grid =
        Grid{S::kChannels / S::kSlice, layers[0].sums.splits, static_cast<std::int64_t>(count)};
    how.block = dim3(device::kWeightThreads<S>);
    how.dynamic_shared = sizeof(device::WeightMemory<S>);
    launch(queue,
           S::kImages == 2 ? "conv_norm_act weight gradients, split TF32"
                           : "conv_norm_act weight gradients, TF32",
           device::mma_weights_kernel<S, Input, kMostWeightLayers>, how, arguments);
  }
}

template <class S>
constexpr LayerWeightsVariant variant(const char* name) {
  return {
      name,
      Needs::tensor_cores(S::kChannels, S::kTaps, S::kImages == 2, sizeof(device::WeightMemory<S>)),
      device::kWeightChunk, S::kChannels / S::kSlice, run_layers<S>};
}

}  // namespace

const LayerWeightsVariant kMmaLayerWeights[8] = {
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
