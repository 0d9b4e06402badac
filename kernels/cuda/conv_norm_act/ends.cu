// The two ends of layers in a row, between which they are computed by convolutions that read and
// write what lies between them (device/layer.cuh): z of the last layer, and the way back into it;
// and dgamma and dbeta of all.
//
// Grid (samples * chunks), the chunks of the convolutions. A block has a row of threads for each
// kRows positions; a thread has four channels.

#include "kernels/cuda/conv_norm_act/device/layer.cuh"
#include "kernels/cuda/conv_norm_act/kernels.h"
#include "kernels/cuda/device/pack.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

namespace sidechannel::kernels {
namespace {

using device::load4;

constexpr int kThreads = 256;

// A thread's four channels, and its positions of a chunk.
template <int kChannels>
struct Place {
  static constexpr int kQuads = kChannels / 4;
  static constexpr int kRows = kThreads / kQuads;
  int n, chunk, count, channel, row;
  std::int64_t first;  // of y, the thread's channels of the chunk's first position

  __device__ Place(const Between& layer, int length)
      : n(static_cast<int>(blockIdx.x) / layer.chunks),
        chunk(static_cast<int>(blockIdx.x) % layer.chunks),
        count(chunk + 1 == layer.chunks ? layer.last_chunk : layer.chunk),
        channel(static_cast<int>(threadIdx.x) % kQuads * 4),
        row(static_cast<int>(threadIdx.x) / kQuads),
        first((std::int64_t{n} * length + std::int64_t{chunk} * layer.chunk) * kChannels +
              channel) {}
};

template <int kChannels>
__global__ void __launch_bounds__(kThreads) finish_kernel(Between layer, int length, float* z) {
  device::after_earlier_launches();
  struct Shared {
    device::LayerConstants<kChannels> constants;
    double totals[kChannels];
  };
  Shared& shared = device::static_shared<Shared>();
  const Place<kChannels> place(layer, length);
  device::merge_statistics<kThreads>(layer, place.n, place.chunk == 0, shared.totals,
                                     shared.constants);
  __syncthreads();  // the constants stand
  const float4 mean = load4(shared.constants.mean + place.channel);
  const float4 scale = load4(shared.constants.scale + place.channel);
  const float4 shift = load4(shared.constants.shift + place.channel);
#pragma unroll 4
  for (int l = place.row; l < place.count; l += place.kRows) {
    const std::int64_t at = place.first + std::int64_t{l} * kChannels;
    *reinterpret_cast<float4*>(z + at) = device::activate_each<kLayerActivation>(
        device::multiply_add(device::subtract(load4(layer.y + at), mean), scale, shift));
  }
}

template <int kChannels>
__global__ void __launch_bounds__(kThreads)
    begin_kernel(Between layer, int length, const float* dz, float* g) {
  device::after_earlier_launches();
  using P = Place<kChannels>;
  struct Shared {
    device::LayerConstants<kChannels> constants;
    alignas(16) float sums[2][P::kRows][kChannels];
  };
  Shared& shared = device::static_shared<Shared>();
  const P place(layer, length);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kChannels) shared.constants.read(layer, place.n, thread);
  __syncthreads();  // the constants stand
  const float4 mean = load4(shared.constants.mean + place.channel);
  const float4 scale = load4(shared.constants.scale + place.channel);
  const float4 shift = load4(shared.constants.shift + place.channel);
  float4 sum = make_float4(0, 0, 0, 0), centred = sum;
#pragma unroll 4
  for (int l = place.row; l < place.count; l += place.kRows) {
    const std::int64_t at = place.first + std::int64_t{l} * kChannels;
    const float4 d = device::subtract(load4(layer.y + at), mean);
    const float4 one = device::activate_backward_each<kLayerActivation>(
        device::multiply_add(d, scale, shift), load4(dz + at));
    *reinterpret_cast<float4*>(g + at) = one;
    sum = device::add(sum, one);
    centred = device::multiply_add(one, d, centred);
  }
  if (!layer.normalized) return;
  *reinterpret_cast<float4*>(&shared.sums[0][place.row][place.channel]) = sum;
  *reinterpret_cast<float4*>(&shared.sums[1][place.row][place.channel]) = centred;
  __syncthreads();  // all rows' sums stand
  if (thread >= kChannels) return;
  float total[2] = {};
  for (int row = 0; row < P::kRows; ++row) {
    total[0] += shared.sums[0][row][thread];
    total[1] += shared.sums[1][row][thread];
  }
  const int at = place.n / layer.set_samples * kChannels + thread;
  const float x_hat =
      fmaf(-layer.statistics.mean_rest[at], total[0], total[1]) * layer.statistics.rstd[at];
  layer.sums[std::int64_t{blockIdx.x} * kChannels + thread] = make_float2(total[0], x_hat);
}

// --- dgamma and dbeta ----------------------------------------------------------------------------
//
// A block for each layer. Order: each of kGroups threads of a channel every kGroups-th part, then
// their sums one after the other.

constexpr std::size_t kMostLayers = 32;  // of a launch

struct ParamsOfLayers {
  LayerParams at[kMostLayers];
};

template <int kChannels>
__global__ void __launch_bounds__(512)
    params_kernel(const __grid_constant__ ParamsOfLayers layers) {
  device::after_earlier_launches();
  constexpr int kGroups = 512 / kChannels;
  struct Shared {
    float2 sums[kGroups][kChannels];
  };
  Shared& shared = device::static_shared<Shared>();
  const LayerParams& layer = layers.at[blockIdx.x];
  const int channel = static_cast<int>(threadIdx.x) % kChannels;
  const int group = static_cast<int>(threadIdx.x) / kChannels;
  float2 sum = make_float2(0, 0);
#pragma unroll 8
  for (int part = group; part < layer.parts; part += kGroups) {
    const float2 one = layer.sums[std::int64_t{part} * kChannels + channel];
    sum.x += one.x;
    sum.y += one.y;
  }
  shared.sums[group][channel] = sum;
  __syncthreads();  // all groups' sums stand
  if (group != 0) return;
  for (int other = 1; other < kGroups; ++other) {
    sum.x += shared.sums[other][channel].x;
    sum.y += shared.sums[other][channel].y;
  }
  if (layer.dbeta.data) device::write(device::Pack<1>{{sum.x}}, layer.dbeta, channel);
  if (layer.dgamma.data) device::write(device::Pack<1>{{sum.y}}, layer.dgamma, channel);
}

// Calls f(channels) with the number as a constant.
template <class F>
void with_channels(int channels, const F& f) {
  if (channels == 64) return f(std::integral_constant<int, 64>());
  f(std::integral_constant<int, 32>());
}

}  // namespace

void finish_forward(CudaQueue& queue, const Between& layer, int channels, int samples, int length,
                    float* z) {
  with_channels(channels, [&](auto c) {
    launch(queue, "conv_norm_act forward: end", finish_kernel<c()>,
           Launch{std::int64_t{samples} * layer.chunks, kThreads}, layer, length, z);
  });
}

void begin_backward(CudaQueue& queue, const Between& layer, int channels, int samples, int length,
                    const float* dz, float* g) {
  with_channels(channels, [&](auto c) {
    launch(queue, "conv_norm_act backward: begin", begin_kernel<c()>,
           Launch{std::int64_t{samples} * layer.chunks, kThreads}, layer, length, dz, g);
  });
}

void add_layer_params(CudaQueue& queue, int channels, View<LayerParams> layers) {
  layers.for_parts(kMostLayers, [&](View<LayerParams> some) {
    ParamsOfLayers arguments = {};
    std::copy(some.begin(), some.end(), arguments.at);
    with_channels(channels, [&](auto c) {
      launch(queue, "conv_norm_act backward: normalizations' parameters", params_kernel<c()>,
             Launch{static_cast<std::int64_t>(some.size()), 512}, arguments);
    });
  });
}

}  // namespace sidechannel::kernels
