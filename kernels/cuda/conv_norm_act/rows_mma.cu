// A layer on tensor cores, C_in = C_out = h, fp32 sums, operands rounded to TF32 or, for fp32,
// split: the row products of conv1d (conv1d/device/rows_mma.cuh) with what lies between two
// convolutions (device/layer.cuh).

#include "kernels/cuda/conv1d/device/rows_mma.cuh"
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
using device::PlainSink;
using device::PlainSource;
using device::RowShape;
using device::Split;

template <class S, bool kFlip, class Source, class Sink>
void rows(CudaQueue& queue, const char* operation, const NarrowProduct& p, const Source& source,
          const Sink& sink) {
  Launch how;
  how.grid = Grid{std::int64_t{p.batch} * ceil_div(p.length_out, S::kPositions)};
  how.block = dim3(S::kThreads);
  how.dynamic_shared = sizeof(device::RowMemory<S, Source, Sink>);
  launch(queue, operation, device::mma_rows_kernel<S, kFlip, Source, Sink>, how, p, source, sink);
}

template <class S>
void forward(CudaQueue& queue, const NarrowProduct& p, const Between* below, float* z,
             const Between& layer) {
  constexpr const char* kName =
      S::kImages == 2 ? "conv_norm_act forward, split TF32" : "conv_norm_act forward, TF32";
  const MomentsOut<S> sink{layer};
  if (below) return rows<S, false>(queue, kName, p, Activated<S>{*below, z}, sink);
  rows<S, false>(queue, kName, p, PlainSource(), sink);
}

template <class S>
void backward(CudaQueue& queue, const NarrowProduct& p, const Between& layer, float* dy,
              const Between* below) {
  constexpr const char* kName =
      S::kImages == 2 ? "conv_norm_act backward, split TF32" : "conv_norm_act backward, TF32";
  const Gradient<S> source{layer, dy};
  if (below) return rows<S, true>(queue, kName, p, source, GradientOut<S>{*below});
  rows<S, true>(queue, kName, p, source, PlainSink());
}

template <class S>
constexpr LayerVariant variant(const char* name) {
  constexpr std::size_t kShared =
      std::max({sizeof(device::RowMemory<S, Activated<S>, MomentsOut<S>>),
                sizeof(device::RowMemory<S, Gradient<S>, GradientOut<S>>)});
  return {name,          Needs::tensor_cores(S::kChannels, S::kTaps, S::kImages == 2, kShared),
          S::kPositions, 1,
          forward<S>,    backward<S>,
          nullptr};
}

}  // namespace

const LayerVariant kMmaLayers[18] = {
    variant<RowShape<64, 5, 5, 2, true, 2>>("TF32 h = 64, 160 positions"),
    variant<RowShape<64, 5, 2, 2, true>>("TF32 h = 64, 64 positions"),
    variant<RowShape<64, 5, 1, 2, true>>("TF32 h = 64, 32 positions"),
    variant<RowShape<32, 5, 5, 1, true>>("TF32 h = 32, 160 positions"),
    variant<RowShape<32, 5, 1, 1, true>>("TF32 h = 32, 32 positions"),
    variant<RowShape<64, 3, 5, 2, true, 2>>("TF32 h = 64, 3 taps, 160 positions"),
    variant<RowShape<64, 3, 1, 2, true>>("TF32 h = 64, 3 taps, 32 positions"),
    variant<RowShape<32, 3, 5, 1, true>>("TF32 h = 32, 3 taps, 160 positions"),
    variant<RowShape<32, 3, 1, 1, true>>("TF32 h = 32, 3 taps, 32 positions"),
    variant<Split<RowShape<64, 5, 5, 2, true, 2>>>("split TF32 h = 64, 160 positions"),
    variant<Split<RowShape<64, 5, 2, 2, true>>>("split TF32 h = 64, 64 positions"),
    variant<Split<RowShape<64, 5, 1, 2, true>>>("split TF32 h = 64, 32 positions"),
    variant<Split<RowShape<32, 5, 5, 1, true>>>("split TF32 h = 32, 160 positions"),
    variant<Split<RowShape<32, 5, 1, 1, true>>>("split TF32 h = 32, 32 positions"),
    variant<Split<RowShape<64, 3, 5, 2, true, 2>>>("split TF32 h = 64, 3 taps, 160 positions"),
    variant<Split<RowShape<64, 3, 1, 2, true>>>("split TF32 h = 64, 3 taps, 32 positions"),
    variant<Split<RowShape<32, 3, 5, 1, true>>>("split TF32 h = 32, 3 taps, 160 positions"),
    variant<Split<RowShape<32, 3, 1, 1, true>>>("split TF32 h = 32, 3 taps, 32 positions"),
};

}  // namespace sidechannel::kernels
