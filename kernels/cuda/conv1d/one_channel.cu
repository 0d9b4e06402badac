// conv1d with one channel on one side: the first and the last convolution of a network. There is
// little to compute for each number that is read or written, so these kernels are bound by memory:
// the wide side, [batch, length, C], is read or written once (or nearly so), 16 bytes at a time
// where C allows it; the narrow side and the weights come from the L1 cache.

#include <cuda_runtime.h>

#include "kernels/cuda/conv1d/device/index.cuh"
#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/device/pack.cuh"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"
#include "kernels/cuda/tiling.h"

namespace sidechannel::kernels {
namespace {

using device::Pack;

constexpr int kThreads = 256;
constexpr int kRun = 4;  // neighbouring positions of a thread

// --- One input channel ---------------------------------------------------------------------------
//
//   y[n, l, j] = start + sum over t of x[n, l + t - offset] * W[t, 0, j]
//
// A thread computes kRun neighbouring positions x kVec neighbouring columns: their inputs slide
// through a window of kRun registers. Neighbouring threads write neighbouring columns. Order of a
// sum: tap by tap.

template <int kVec>
__global__ void __launch_bounds__(kThreads) one_channel_in_kernel(NarrowProduct p, int runs) {
  device::after_earlier_launches();
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int packs = p.columns / kVec;
  const std::int64_t run = index / packs;
  if (run >= std::int64_t{p.batch} * runs) return;
  const int column = static_cast<int>(index % packs) * kVec;
  const int n = static_cast<int>(run / runs);
  const int first = static_cast<int>(run % runs) * kRun;

  const float* x = p.x + std::int64_t{n} * p.length;
  const auto input = [&](int l) { return l >= 0 && l < p.length ? x[l] : 0.0f; };
  float window[kRun];
#pragma unroll
  for (int i = 0; i < kRun - 1; ++i) window[i + 1] = input(first + i - p.offset);

  float sum[kRun][kVec] = {};
  for (int t = 0; t < p.taps; ++t) {
#pragma unroll
    for (int i = 0; i < kRun - 1; ++i) window[i] = window[i + 1];
    window[kRun - 1] = input(first + kRun - 1 + t - p.offset);
    // One channel: flipped or not, a tap's columns are neighbours.
    const Pack<kVec> w =
        Pack<kVec>::load(p.w + std::int64_t{p.flip ? p.taps - 1 - t : t} * p.columns + column);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
#pragma unroll
      for (int e = 0; e < kVec; ++e) sum[i][e] += window[i] * w.v[e];
    }
  }
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    if (first + i >= p.length_out) return;
    const std::int64_t row = (std::int64_t{n} * p.length_out + first + i) * p.columns;
    if constexpr (kVec == 4) {
      device::store(p, row, column, make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]));
    } else {
      device::store(p, row, column, sum[i][0]);
    }
  }
}

void one_channel_in(CudaQueue& queue, const NarrowProduct& p) {
  const int runs = ceil_div(p.length_out, kRun);
  const int vec = pack_size(p.columns, {p.y, p.w, p.bias});
  Launch how;
  how.grid = Grid{ceil_div(std::int64_t{p.batch} * runs * (p.columns / vec), kThreads)};
  how.block = dim3(kThreads);
  launch(queue, "conv1d rows, one input channel",
         vec == 4 ? one_channel_in_kernel<4> : one_channel_in_kernel<1>, how, p, runs);
}

// --- One output channel --------------------------------------------------------------------------
//
//   y[n, l] = start + sum over t, c of x[n, l + t - offset, c] * W[t, c, 0]
//
// Eight neighbouring lanes compute kRun neighbouring positions; each lane sums every eighth pack of
// channels, whose inputs slide through a window of registers. Order of a sum: in a lane, pack by
// pack, tap by tap, channel by channel; then the tree over the eight lanes.

constexpr int kLanesOfRun = 8;

template <int kVec>
__global__ void __launch_bounds__(kThreads) one_channel_out_kernel(NarrowProduct p, int runs) {
  device::after_earlier_launches();
  const std::int64_t index = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const std::int64_t run = index / kLanesOfRun;
  const int lane = static_cast<int>(threadIdx.x) % kLanesOfRun;
  const int n = static_cast<int>(run / runs);
  const int first = static_cast<int>(run % runs) * kRun;
  // Lanes beyond the end still take part in the sums over lanes: they compute nothing.
  const bool inside = n < p.batch;
  const int channels = inside ? p.channels : 0;

  const float* x = p.x + std::int64_t{n} * p.length * p.channels;
  const auto input = [&](int l, int c) {
    return l >= 0 && l < p.length ? Pack<kVec>::load(x + std::int64_t{l} * p.channels + c)
                                  : Pack<kVec>{};
  };
  float sum[kRun] = {};
  for (int c = lane * kVec; c < channels; c += kLanesOfRun * kVec) {
    Pack<kVec> window[kRun];
#pragma unroll
    for (int i = 0; i < kRun - 1; ++i) window[i + 1] = input(first + i - p.offset, c);
    for (int t = 0; t < p.taps; ++t) {
#pragma unroll
      for (int i = 0; i < kRun - 1; ++i) window[i] = window[i + 1];
      window[kRun - 1] = input(first + kRun - 1 + t - p.offset, c);
      // One column: flipped or not, a tap's channels are neighbours.
      const Pack<kVec> w =
          Pack<kVec>::load(p.w + std::int64_t{p.flip ? p.taps - 1 - t : t} * p.channels + c);
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
#pragma unroll
        for (int e = 0; e < kVec; ++e) sum[i] += window[i].v[e] * w.v[e];
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    sum[i] = device::warp_sum<kLanesOfRun>(sum[i]);
    // All lanes have the sum; lane i writes the i-th.
    if (inside && lane == i && first + i < p.length_out) {
      device::store(p, std::int64_t{n} * p.length_out + first + i, 0, sum[i]);
    }
  }
}

void one_channel_out(CudaQueue& queue, const NarrowProduct& p) {
  const int runs = ceil_div(p.length_out, kRun);
  Launch how;
  how.grid = Grid{ceil_div(std::int64_t{p.batch} * runs * kLanesOfRun, kThreads)};
  how.block = dim3(kThreads);
  launch(queue, "conv1d rows, one output channel",
         pack_size(p.channels, {p.x, p.w}) == 4 ? one_channel_out_kernel<4>
                                                : one_channel_out_kernel<1>,
         how, p, runs);
}

// --- Weight gradient, first stage ----------------------------------------------------------------
//
// With one input channel, dw[t, c] = sum over n, l of x[n, l + t - padding] * dy[n, l, c]. With one
// output channel, dw[t, c] = sum over n, l of dy[n, l + padding - t] * x[n, l, c]: the same sum
// with x and dy in each other's place and the taps in reverse. So for both,
//
//   sums[t, c] = sum over n, l of narrow[n, l + t - offset] * wide[n, l, c]
//
// A block sums 32 channels x kTapsOfBlock taps over one split: grid.x counts tiles of channels,
// grid.y splits, grid.z groups of taps. A thread sums one channel over kPositionsOfThread
// neighbouring positions of each chunk, while the narrow side slides through a window of registers.
// Order of a sum: position by position in a thread, then the sums of the block's 8 threads of a
// channel one after the other. The bias is summed along: of one input channel as a tap that is
// always 1, of one output channel by a block of its own, in a split's threads, then in the block's
// tree.

constexpr int kChannelsOfBlock = 32;
constexpr int kGroupsOfBlock = 8;
constexpr int kPositionsOfThread = 16;
constexpr int kTapsOfBlock = 5;

struct SingleSums {
  int length, channels;  // of the wide side
  int narrow_length, offset;
  const float* wide;    // [batch, length, channels]
  const float* narrow;  // [batch, narrow_length]
  bool reverse;         // the taps
  bool bias;            // the wide side's sum is asked for
  int tiles;            // of channels
};

__global__ void __launch_bounds__(kChannelsOfBlock* kGroupsOfBlock)
    one_channel_weights_kernel(WeightSums p, SingleSums s) {
  device::after_earlier_launches();
  struct Shared {
    float sum[kGroupsOfBlock][kTapsOfBlock + 1][kChannelsOfBlock];
  };
  Shared& shared = device::static_shared<Shared>();
  const int lane = static_cast<int>(threadIdx.x);
  const int group = static_cast<int>(threadIdx.y);
  const int c = static_cast<int>(blockIdx.x) * kChannelsOfBlock + lane;
  const int first_tap = static_cast<int>(blockIdx.z) * kTapsOfBlock;

  float* out = p.partial + blockIdx.y * p.row;

  if (static_cast<int>(blockIdx.x) == s.tiles) {  // the whole block, for the narrow side's sum
    if (blockIdx.z != 0) return;
    const std::int64_t size = std::int64_t{p.batch} * s.narrow_length;
    const std::int64_t end = size * (blockIdx.y + 1) / p.splits;
    std::int64_t i = size * blockIdx.y / p.splits + device::thread_rank();
    float total = 0;
    for (; i < end; i += device::block_threads()) total += s.narrow[i];
    total = device::block_sum(total);
    if (device::thread_rank() == 0) out[p.weight_sums] = total;
    return;
  }

  float sum[kTapsOfBlock + 1] = {};  // the last for the bias
  const device::Chunks chunks(p, static_cast<int>(blockIdx.y));
  for (int index = chunks.begin; c < s.channels && index < chunks.end; ++index) {
    const device::Chunk chunk(p, index);
    const float* narrow = s.narrow + std::int64_t{chunk.n} * s.narrow_length;
    const auto input = [&](int l) { return l >= 0 && l < s.narrow_length ? narrow[l] : 0.0f; };
    const int begin = chunk.first + group * kPositionsOfThread;
    const int end = min(begin + kPositionsOfThread, chunk.first + chunk.count);
    float window[kTapsOfBlock];
#pragma unroll
    for (int t = 0; t < kTapsOfBlock - 1; ++t) {
      window[t + 1] = input(begin + t + first_tap - s.offset);
    }
    const float* wide = s.wide + (std::int64_t{chunk.n} * s.length + begin) * s.channels + c;
    // All loads are under way before the first is needed.
    float values[kPositionsOfThread];
    float ends[kPositionsOfThread];  // of the window, at each position
#pragma unroll
    for (int i = 0; i < kPositionsOfThread; ++i) {
      values[i] = begin + i < end ? wide[std::int64_t{i} * s.channels] : 0.0f;
      ends[i] = input(begin + i + kTapsOfBlock - 1 + first_tap - s.offset);
    }
#pragma unroll
    for (int i = 0; i < kPositionsOfThread; ++i) {
#pragma unroll
      for (int t = 0; t < kTapsOfBlock - 1; ++t) window[t] = window[t + 1];
      window[kTapsOfBlock - 1] = ends[i];
      if (begin + i >= end) continue;
#pragma unroll
      for (int t = 0; t < kTapsOfBlock; ++t) sum[t] += window[t] * values[i];
      sum[kTapsOfBlock] += values[i];
    }
  }
#pragma unroll
  for (int t = 0; t <= kTapsOfBlock; ++t) shared.sum[group][t][lane] = sum[t];
  __syncthreads();  // all groups' sums stand
  // Group t adds up tap t, the one after the last tap the bias.
  if (group > kTapsOfBlock || c >= s.channels) return;
  float total = shared.sum[0][group][lane];
  for (int g = 1; g < kGroupsOfBlock; ++g) total += shared.sum[g][group][lane];
  const int tap = first_tap + group;
  if (group < kTapsOfBlock && tap < p.taps) {
    out[std::int64_t{s.reverse ? p.taps - 1 - tap : tap} * s.channels + c] = total;
  }
  if (group == kTapsOfBlock && first_tap == 0 && s.bias) out[p.weight_sums + c] = total;
}

std::int64_t one_channel_weights_blocks(const WeightSums& p) {
  // One of the two is 1.
  return ceil_div(std::int64_t{p.channels_in} * p.channels_out, kChannelsOfBlock) *
         ceil_div(p.taps, kTapsOfBlock);
}

void one_channel_weights(CudaQueue& queue, const WeightSums& p) {
  const bool one_in = p.channels_in == 1;
  SingleSums s;
  s.length = one_in ? p.length_out : p.length;
  s.channels = one_in ? p.channels_out : p.channels_in;
  s.narrow_length = one_in ? p.length : p.length_out;
  s.offset = one_in ? p.padding : p.taps - 1 - p.padding;
  s.wide = one_in ? p.dy : p.x;
  s.narrow = one_in ? p.x : p.dy;
  s.reverse = !one_in;
  s.bias = one_in && p.bias;
  s.tiles = ceil_div(s.channels, kChannelsOfBlock);
  // Chunks are of the wide side's positions here.
  WeightSums sums = p;
  sums.length_out = s.length;
  sums.chunks_per_sample = ceil_div(s.length, p.chunk);
  sums.chunks = std::int64_t{p.batch} * sums.chunks_per_sample;
  Launch how;
  // One block more for the bias of one output channel: the narrow side's sum.
  how.grid = Grid{s.tiles + (p.bias && !one_in ? 1 : 0), p.splits, ceil_div(p.taps, kTapsOfBlock)};
  how.block = dim3(kChannelsOfBlock, kGroupsOfBlock);
  launch(queue, "conv1d weight gradient, one channel", one_channel_weights_kernel, how, sums, s);
}

}  // namespace

constexpr Needs kOneIn = {1, 0, 0, 1};
constexpr Needs kOneOut = {0, 1, 0, 1};

const RowVariant kOneChannelRows[2] = {{"one output channel", kOneOut, kRun, 1, one_channel_out},
                                       {"one input channel", kOneIn, kRun, 2, one_channel_in}};
const WeightVariant kOneChannelWeights[2] = {
    {"one output channel", kOneOut, kGroupsOfBlock* kPositionsOfThread, 4, 1,
     one_channel_weights_blocks, one_channel_weights},
    {"one input channel", kOneIn, kGroupsOfBlock* kPositionsOfThread, 4, 1,
     one_channel_weights_blocks, one_channel_weights}};

}  // namespace sidechannel::kernels
