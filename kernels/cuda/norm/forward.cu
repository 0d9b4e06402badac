// Fused normalization and activation, forward:
//
//   mean = sum of x / n,  variance = sum of (x - mean)^2 / n,  rstd = 1 / sqrt(variance + epsilon)
//   y = activation((x - mean) * (rstd * gamma) + beta)
//
// over sets of n values. x, y [groups, positions, channels]; statistics [groups, channels]. Which
// of the two ways a shape goes is told in plan.cuh; how threads map to elements, and the order
// of sums, in device/tile.cuh.
//
// The sum of x gives a mean m that is near enough. Then d = x - m is off by a rounding of its own,
// however far x lies from zero, and corrects both results for what m is off:
//
//   mean = m + sum of d / n,  variance = (sum of d^2 - (sum of d)^2 / n) / n
//
// Sets that are not centred end with a mean of 0 and with variance + mean^2, the mean of x^2:
// positive terms, so nothing cancels.

#include <cuda_runtime.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm/plan.cuh"

namespace sidechannel::kernels {
namespace {

using device::add_up;
using device::ColumnSums;
using device::NormConstants;
using device::Nothing;
using device::Pack;
using device::Tile;

// Grid (groups, tiles of channels). Loads its whole sets, sums, centres and sums again from
// registers, and stores.
template <int kVec, int kItems>
__global__ void __launch_bounds__(kMaxTileThreads, 1)
    forward_whole_sets(Tiling tiling, NormArguments norm, const float* x, const float* gamma,
                       const float* beta, float* y, NormStatistics<float> statistics) {
  device::after_earlier_launches();
  auto& sums = device::static_shared<ColumnSums<kVec, 2>>();
  const Tile<kVec, kItems> tile(tiling);
  const int channels = device::tile_channels<kVec>(tiling);
  const std::int64_t first_statistic = tile.group * tiling.channels + tile.channel;

  Pack<kVec> item[kItems];
  tile.load(x, item);
  Pack<kVec> first_sum[1] = {};
#pragma unroll
  for (int i = 0; i < kItems; ++i) first_sum[0].add(item[i]);
  add_up(sums, first_sum, norm.set_channels, channels, Nothing(),
         [&](int, float(&total)[1]) { total[0] /= norm.set_size; });
  Pack<kVec> near = {};
  if (tile.inside(tiling)) near = sums.mine(0);

  Pack<kVec> sum[2] = {};
  tile.each([&](int i, std::int64_t) {
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const float d = item[i].v[j] - near.v[j];
      sum[0].v[j] += d;
      sum[1].v[j] = fmaf(d, d, sum[1].v[j]);
    }
  });
  add_up(sums, sum, norm.set_channels, channels, Nothing(), [&](int c, float(&total)[2]) {
    const float correction = total[0] / norm.set_size;
    const float squares = fmaf(-correction, total[0], total[1]);
    float variance = squares / norm.set_size;
    if (!norm.centred) {
      // The channel's first mean still stands where this call will leave its own result.
      const float mean = sums.result[0][c] + correction;
      variance = fmaf(mean, mean, variance);
    }
    total[0] = correction;
    total[1] = device::rstd_of(variance, norm.epsilon);
  });
  if (!tile.inside(tiling)) return;
  NormConstants<kVec> constants = {};
  constants.rstd = sums.mine(1);
  if (norm.centred) constants.set_mean(near, sums.mine(0), norm.epsilon);
  if (threadIdx.y == 0) constants.keep(statistics, first_statistic);
  constants.set_scale(gamma + tile.channel, beta + tile.channel);
  tile.each(
      [&](int i, std::int64_t at) { constants.forward(item[i], norm.activation).store(y + at); });
}

// Grid (groups * chunks, tiles of channels). moments [groups, channels, chunks].
//
// Centres by the tile's rounded mean and then corrects both results for its rounding:
// mean + sum of d / n, and sum of d^2 - (sum of d)^2 / n for d = x - mean.
template <int kVec, int kItems>
__global__ void __launch_bounds__(kMaxTileThreads, 1)
    sum_chunks(Tiling tiling, const float* x, Moments* moments) {
  device::after_earlier_launches();
  auto& sums = device::static_shared<ColumnSums<kVec, 2>>();
  const Tile<kVec, kItems> tile(tiling);
  const int channels = device::tile_channels<kVec>(tiling);
  const auto count = static_cast<float>(tile.positions_of_chunk(tiling));

  Pack<kVec> item[kItems];
  tile.load(x, item);
  Pack<kVec> sum[2] = {};
#pragma unroll
  for (int i = 0; i < kItems; ++i) sum[0].add(item[i]);
  add_up(sums, sum, 1, channels, Nothing(), [&](int, float(&total)[2]) { total[0] /= count; });
  Pack<kVec> mean = {};
  if (tile.inside(tiling)) mean = sums.mine(0);

  sum[0] = {};
  sum[1] = {};
  tile.each([&](int i, std::int64_t) {
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const float centred = item[i].v[j] - mean.v[j];
      sum[0].v[j] += centred;
      sum[1].v[j] = fmaf(centred, centred, sum[1].v[j]);
    }
  });
  const std::int64_t first = tile.group * tiling.channels + device::first_channel<kVec>();
  add_up(sums, sum, 1, channels, Nothing(), [&](int c, float(&total)[2]) {
    const double centred = total[0];
    const double n = count;
    // The tile's mean of this channel still stands where this call will leave its own result.
    const double rounded = sums.result[0][c];
    moments[(first + c) * tiling.chunks + tile.chunk] = {rounded + centred / n,
                                                         total[1] - centred * centred / n};
  });
}

// Grid (groups * sets). Merges the moments of a set's channels and tiles [set_channels, chunks],
// which lie one after the other, in double (Chan, Golub & LeVeque 1979, for many parts at once):
//
//   mean = sum of n_i mean_i / m,  m2 = sum of (m2_i + n_i (mean_i - mean)^2)
//
// Order: thread t takes parts t, t + threads, ...; then the block's tree.
__global__ void merge_chunks(Tiling tiling, NormArguments norm, double epsilon,
                             const Moments* moments, NormStatistics<float> statistics) {
  device::after_earlier_launches();
  const std::int64_t parts = std::int64_t{norm.set_channels} * tiling.chunks;
  const Moments* of_set = moments + blockIdx.x * parts;
  const std::int64_t last = tiling.positions - std::int64_t{tiling.chunk} * (tiling.chunks - 1);
  const auto positions_of = [&](std::int64_t part) {
    const bool whole = part % tiling.chunks + 1 < tiling.chunks;
    return static_cast<double>(whole ? tiling.chunk : last);
  };
  const double m = static_cast<double>(norm.set_channels) * static_cast<double>(tiling.positions);

  double sum = 0;
  for (std::int64_t part = threadIdx.x; part < parts; part += blockDim.x) {
    sum += positions_of(part) * of_set[part].mean;
  }
  const double set_mean = device::block_sum(sum) / m;
  double squares = 0;
  for (std::int64_t part = threadIdx.x; part < parts; part += blockDim.x) {
    const double deviation = of_set[part].mean - set_mean;
    squares += of_set[part].m2 + positions_of(part) * deviation * deviation;
  }
  double variance = device::block_sum(squares) / m;
  // Infinite, and so NaN, beyond the range of floats.
  if (!norm.centred) variance = static_cast<float>(variance + set_mean * set_mean);

  const std::int64_t first = std::int64_t{blockIdx.x} * norm.set_channels;
  for (int c = static_cast<int>(threadIdx.x); c < norm.set_channels;
       c += static_cast<int>(blockDim.x)) {
    const double rstd = device::rstd_of(variance, epsilon);
    const double centre = norm.centred ? set_mean : 0;
    const auto mean = device::near_zero(centre, rstd, epsilon) ? 0.0f : static_cast<float>(centre);
    statistics.mean[first + c] = mean;
    statistics.mean_rest[first + c] = static_cast<float>(centre - mean);
    statistics.rstd[first + c] = static_cast<float>(rstd);
  }
}

// Grid (groups * chunks, tiles of channels): y from given statistics. Those of a population have no
// groups, and a variance instead of rstd.
template <int kVec, int kItems, bool kPopulation>
__global__ void __launch_bounds__(kMaxTileThreads, 1)
    apply(Tiling tiling, NormArguments norm, const float* x, GivenStatistics statistics,
          const float* gamma, const float* beta, float* y) {
  device::after_earlier_launches();
  const Tile<kVec, kItems> tile(tiling);
  if (!tile.inside(tiling)) return;
  Pack<kVec> item[kItems];
  tile.load(x, item);
  NormConstants<kVec> constants;
  const std::int64_t statistic = tile.group * tiling.channels + tile.channel;
  if constexpr (kPopulation) {
    constants.set_population(statistics, statistic, norm.epsilon);
  } else {
    constants.set_statistics(statistics, statistic);
  }
  constants.set_scale(gamma + tile.channel, beta + tile.channel);
  tile.each(
      [&](int i, std::int64_t at) { constants.forward(item[i], norm.activation).store(y + at); });
}

}  // namespace

void run(CudaQueue& queue, const NormForward<float>& call) {
  const NormDims& dims = call.dims;
  const NormStatistics<float>& statistics = call.statistics;
  if (dims.size() == 0) return;
  const NormArguments norm = arguments_of(dims);
  const int vec = pack_size(dims.channels, {call.x, call.y});
  TilePlan whole;
  if (cut_in_whole_sets(dims, vec, {4, 8, 16}, whole)) {
    with_constants<4, 8, 16>(whole, [&](auto kVec, auto kItems) {
      launch(queue, "norm_act_forward", forward_whole_sets<kVec(), kItems()>,
             Launch{whole.grid(), whole.block()}, whole.tiling, norm, call.x, call.gamma, call.beta,
             call.y, statistics);
    });
    return;
  }
  const std::int64_t groups = dims.groups();
  const TilePlan plan = cut_in_chunks(groups, dims.rows(), dims.channels, vec);
  auto* moments = static_cast<Moments*>(queue.scratch(
      static_cast<std::size_t>(groups * dims.channels * plan.tiling.chunks) * sizeof(Moments)));
  with_constants<8>(plan, [&](auto kVec, auto kItems) {
    launch(queue, "norm_act_forward: sums", sum_chunks<kVec(), kItems()>,
           Launch{plan.grid(), plan.block()}, plan.tiling, call.x, moments);
    const std::int64_t sets = groups * (dims.channels / dims.channels_per_set);
    launch(queue, "norm_act_forward: statistics", merge_chunks, Launch{sets, 128}, plan.tiling,
           norm, dims.epsilon, moments, statistics);
    launch(queue, "norm_act_forward: apply", apply<kVec(), kItems(), false>,
           Launch{plan.grid(), plan.block()}, plan.tiling, norm, call.x,
           GivenStatistics{statistics.mean, statistics.mean_rest, statistics.rstd}, call.gamma,
           call.beta, call.y);
  });
}

void run(CudaQueue& queue, const NormPopulationForward<float>& call) {
  const NormDims& dims = call.dims;
  if (dims.size() == 0) return;
  const GivenStatistics given{call.mean, nullptr, call.variance};
  const TilePlan plan = cut_in_chunks(1, dims.batch * dims.length, dims.channels,
                                      pack_size(dims.channels, {call.x, call.y}));
  with_constants<8>(plan, [&](auto kVec, auto kItems) {
    launch(queue, "norm_act_population_forward", apply<kVec(), kItems(), true>,
           Launch{plan.grid(), plan.block()}, plan.tiling, arguments_of(dims), call.x, given,
           call.gamma, call.beta, call.y);
  });
}

}  // namespace sidechannel::kernels
