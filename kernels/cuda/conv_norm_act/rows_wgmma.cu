// A layer by Hopper's products of warp groups, h = 64, TF32 operands, fp32 sums: the row products
// of conv1d/device/rows_wgmma.cuh with what lies between two convolutions (device/layer.cuh); and
// the weights of all layers in the order in which they are multiplied.

#include <algorithm>

#include "kernels/cuda/conv1d/device/rows_wgmma.cuh"
#include "kernels/cuda/conv_norm_act/device/layer.cuh"
#include "kernels/cuda/conv_norm_act/kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

namespace sidechannel::kernels {
namespace {

using device::Activated;
using device::Gradient;
using device::GradientOut;
using device::MomentsOut;
using device::WgmmaShape;

// --- Weights -------------------------------------------------------------------------------------

constexpr int kPackThreads = 256;
constexpr std::size_t kMostPacked = 128;  // layers of a launch

struct PackArguments {
  PackWeights at[kMostPacked];
};

// A block's threads have a weight each, of layer blockIdx.y.
template <int kTaps>
__global__ void __launch_bounds__(kPackThreads)
    pack_kernel(const __grid_constant__ PackArguments layers, bool flip) {
  device::after_earlier_launches();
  using Stage = device::PackedStage<kTaps>;
  constexpr int kStage = sizeof(Stage) / sizeof(float);
  const int i = static_cast<int>(blockIdx.x) * kPackThreads + static_cast<int>(threadIdx.x);
  const int channel =
      i / kStage * device::kStageChannels + i / 512 % 2 * 8 + i / 256 % 2 * 4 + i % 4;
  const int column = Stage::column_of(i / 4 % 64);
  const int tap = i % kStage / 1024;
  const auto& [from, to] = layers.at[blockIdx.y];
  to[i] = device::to_tf32(flip ? from[((kTaps - 1 - tap) * 64 + column) * 64 + channel]
                               : from[(tap * 64 + channel) * 64 + column]);
}

template <int kTaps>
void pack(CudaQueue& queue, View<PackWeights> layers, bool flip) {
  layers.for_parts(kMostPacked, [&](View<PackWeights> some) {
    PackArguments arguments = {};
    std::copy(some.begin(), some.end(), arguments.at);
    const auto count = static_cast<std::int64_t>(some.size());
    launch(queue, "conv_norm_act: weights for wgmma", pack_kernel<kTaps>,
           Launch{{kTaps * 64 * 64 / kPackThreads, count}, kPackThreads}, arguments, flip);
  });
}

// --- Rows ----------------------------------------------------------------------------------------

template <class S, class Source, class Sink>
void rows(CudaQueue& queue, const char* operation, const NarrowProduct& p, const Source& source,
          const Sink& sink, bool early) {
  Launch how;
  how.grid = Grid{std::int64_t{p.batch} * ceil_div(p.length_out, S::kPositions)};
  how.block = dim3(S::kThreads);
  how.dynamic_shared = sizeof(device::WgmmaRowMemory<S, Source, Sink>);
  how.cluster = dim3(S::kCluster);
  launch(queue, operation, device::wgmma_rows_kernel<S, Source, Sink>, how, p, early, source, sink);
}

// The first layer's launch follows that which packs.
template <class S>
void forward(CudaQueue& queue, const NarrowProduct& p, const Between* below, float* z,
             const Between& layer) {
  constexpr const char* kName = "conv_norm_act forward, TF32 by wgmma";
  const MomentsOut<S> sink{layer};
  if (below) return rows<S>(queue, kName, p, Activated<S>{*below, z}, sink, true);
  rows<S>(queue, kName, p, device::PlainSource(), sink, false);
}

template <class S>
void backward(CudaQueue& queue, const NarrowProduct& p, const Between& layer, float* dy,
              const Between* below) {
  constexpr const char* kName = "conv_norm_act backward, TF32 by wgmma";
  const Gradient<S> source{layer, dy};
  if (below) return rows<S>(queue, kName, p, source, GradientOut<S>{*below}, true);
  rows<S>(queue, kName, p, source, device::PlainSink(), true);
}

template <class S>
constexpr LayerVariant variant(const char* name) {
  constexpr std::size_t kShared =
      std::max({sizeof(device::WgmmaRowMemory<S, Activated<S>, MomentsOut<S>>),
                sizeof(device::WgmmaRowMemory<S, Gradient<S>, GradientOut<S>>)});
  Needs needs = Needs::tensor_cores(S::kChannels, S::kTaps, false, kShared);
  needs.hopper = true;
  return {name, needs, S::kPositions, S::kCluster, forward<S>, backward<S>, pack<S::kTaps>};
}

}  // namespace

const LayerVariant kWgmmaLayers[5] = {
    variant<WgmmaShape<5, 2, 80, 2, 2>>("TF32 wgmma, 160 positions, clusters of 2"),
    variant<WgmmaShape<5, 2, 80, 2, 1>>("TF32 wgmma, 160 positions"),
    variant<WgmmaShape<5, 1, 152, 2, 2>>("TF32 wgmma, 152 positions, clusters of 2"),
    variant<WgmmaShape<5, 1, 64, 2, 2>>("TF32 wgmma, 64 positions, clusters of 2"),
    variant<WgmmaShape<3, 2, 80, 2, 2>>("TF32 wgmma, 3 taps, 160 positions, clusters of 2"),
};

}  // namespace sidechannel::kernels
