// Fused normalization and activation, backward. With g = dy where the ReLU let x through, else 0:
//
//   dbeta = sum of g,  dgamma = sum of g * x_hat              over all samples and positions
//   dx = rstd * (gamma * g - a - x_hat * b)                   a, b: the means over the set of
//                                                             gamma * g and of gamma * g * x_hat
//
// (a = b = 0 where the statistics are a population's; a = 0 where dx does not go through the mean,
// b = 0 where not through the variance.) x, dy, dx [groups, positions, channels];
// statistics [groups, channels]. The mask of the ReLU is computed again from x. Which of the two
// ways a shape goes is told in plan.cuh; how threads map to elements, and the order of sums,
// in device/tile.cuh.
//
// Each tile leaves its sums of g and g * x_hat in scratch memory, `partial` [groups, channels,
// chunks]; those of a channel are then added up (column_totals.cuh).

#include <cuda_runtime.h>

#include "kernels/cuda/column_totals.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm/plan.cuh"
#include "kernels/fill.h"

namespace sidechannel::kernels {
namespace {

using device::add_up;
using device::ColumnSums;
using device::NormConstants;
using device::Pack;
using device::Tile;

using Sums = ColumnPartial<2>;  // of g, and of g * x_hat

// What a thread takes off its gradients: dx = scale * g - shift - slope * d, for d = x - mean of
// which the mean's rest is not taken.
template <int kVec>
struct Correction {
  Pack<kVec> shift, slope;

  // From a and b of the thread's channels.
  __device__ __forceinline__ Correction(const Pack<kVec>& a, const Pack<kVec>& b,
                                        const NormConstants<kVec>& constants) {
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      const float rstd = constants.rstd.v[j];
      slope.v[j] = rstd * rstd * b.v[j];
      shift.v[j] = fmaf(-constants.rest.v[j], slope.v[j], rstd * a.v[j]);
    }
  }

  __device__ __forceinline__ Pack<kVec> dx(const Pack<kVec>& centred, const Pack<kVec>& g,
                                           const Pack<kVec>& scale) const {
    Pack<kVec> result;
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      result.v[j] = fmaf(-centred.v[j], slope.v[j], fmaf(g.v[j], scale.v[j], -shift.v[j]));
    }
    return result;
  }
};

// What a tile is part of.
enum class Part {
  kSets,        // it holds whole sets: sums and dx
  kChunk,       // of larger sets: sums alone
  kPopulation,  // of a population, whose statistics do not depend on x: sums, and dx without them
};

// Grid (groups * chunks, tiles of channels). A null dx or partial: nobody asked.
template <int kVec, int kItems, Part kPart>
__global__ void __launch_bounds__(kMaxTileThreads, 1)
    backward_tile(Tiling tiling, NormArguments norm, const float* x, const float* gamma,
                  const float* beta, GivenStatistics statistics, const float* dy, GradOut<float> dx,
                  Sums* partial) {
  device::after_earlier_launches();
  auto& sums = device::static_shared<ColumnSums<kVec, 2>>();
  const Tile<kVec, kItems> tile(tiling);
  const int channels = device::tile_channels<kVec>(tiling);

  Pack<kVec> item[kItems], g[kItems];
  tile.load(x, item);
  tile.load(dy, g);
  NormConstants<kVec> constants = {};
  if (tile.inside(tiling)) {
    const std::int64_t statistic = tile.group * tiling.channels + tile.channel;
    if constexpr (kPart == Part::kPopulation) {
      constants.set_population(statistics, statistic, norm.epsilon);
    } else {
      constants.set_statistics(statistics, statistic);
    }
    constants.set_scale(gamma + tile.channel, beta + tile.channel);
  }
  Pack<kVec> sum[2] = {};
  tile.each([&](int i, std::int64_t) {
    constants.centre_and_activate(item[i], g[i], norm.activation);
    sum[0].add(g[i]);
#pragma unroll
    for (int j = 0; j < kVec; ++j) {
      sum[1].v[j] = fmaf(g[i].v[j], item[i].v[j], sum[1].v[j]);
    }
  });
  // Each row's thread brings x - mean to x_hat, so that the sums need no statistics any more.
#pragma unroll
  for (int j = 0; j < kVec; ++j) {
    sum[1].v[j] = fmaf(-constants.rest.v[j], sum[0].v[j], sum[1].v[j]) * constants.rstd.v[j];
  }

  const int first_channel = device::first_channel<kVec>();
  const std::int64_t first = tile.group * tiling.channels + first_channel;
  add_up(
      sums, sum, kPart == Part::kSets ? norm.set_channels : 1, channels,
      [&](int c, float(&total)[2]) {
        if (partial) partial[(first + c) * tiling.chunks + tile.chunk] = {{total[0], total[1]}};
        const float share = gamma[first_channel + c] / norm.set_size;
        total[0] *= share;
        total[1] *= share;
      },
      [](int, float(&)[2]) {});
  if constexpr (kPart != Part::kChunk) {
    if (!dx.data || !tile.inside(tiling)) return;
    Pack<kVec> a = {}, b = {};
    if constexpr (kPart == Part::kSets) {
      if (norm.through_mean) a = sums.mine(0);
      if (norm.through_variance) b = sums.mine(1);
    }
    const Correction<kVec> correction(a, b, constants);
    tile.each([&](int i, std::int64_t at) {
      write(correction.dx(item[i], g[i], constants.scale), dx, at);
    });
  }
}

// Grid (groups * sets). a and b of each set, from the sums of its channels and tiles
// [set_channels, chunks], which lie one after the other. Order: thread t takes parts t,
// t + threads, ...; then the block's tree.
__global__ void merge_set(Tiling tiling, NormArguments norm, const float* gamma,
                          const Sums* partial, Sums* of_sets) {
  device::after_earlier_launches();
  const std::int64_t parts = std::int64_t{norm.set_channels} * tiling.chunks;
  const std::int64_t sets = tiling.channels / norm.set_channels;
  const Sums* of_set = partial + blockIdx.x * parts;
  const float* set_gamma = gamma + blockIdx.x % sets * norm.set_channels;
  float a = 0;
  float b = 0;
  for (std::int64_t part = threadIdx.x; part < parts; part += blockDim.x) {
    const float share = set_gamma[part / tiling.chunks];
    a = fmaf(share, of_set[part].v[0], a);
    b = fmaf(share, of_set[part].v[1], b);
  }
  a = device::block_sum(a);
  b = device::block_sum(b);
  if (threadIdx.x != 0) return;
  of_sets[blockIdx.x] = {{norm.through_mean ? a / norm.set_size : 0.0f,
                          norm.through_variance ? b / norm.set_size : 0.0f}};
}

// Grid (groups * chunks, tiles of channels). dx, when a and b of the sets are known.
template <int kVec, int kItems>
__global__ void __launch_bounds__(kMaxTileThreads, 1)
    apply_backward(Tiling tiling, NormArguments norm, const float* x, const float* gamma,
                   const float* beta, GivenStatistics statistics, const float* dy,
                   const Sums* of_sets, GradOut<float> dx) {
  device::after_earlier_launches();
  const Tile<kVec, kItems> tile(tiling);
  if (!tile.inside(tiling)) return;
  NormConstants<kVec> constants;
  const std::int64_t statistic = tile.group * tiling.channels + tile.channel;
  constants.set_statistics(statistics, statistic);
  constants.set_scale(gamma + tile.channel, beta + tile.channel);
  Pack<kVec> a, b;
#pragma unroll
  for (int j = 0; j < kVec; ++j) {
    const Sums of_set = of_sets[(statistic + j) / norm.set_channels];
    a.v[j] = of_set.v[0];
    b.v[j] = of_set.v[1];
  }
  const Correction<kVec> correction(a, b, constants);
  tile.each([&](int, std::int64_t at) {
    auto centred = Pack<kVec>::load(x + at);
    auto g = Pack<kVec>::load(dy + at);
    constants.centre_and_activate(centred, g, norm.activation);
    write(correction.dx(centred, g, constants.scale), dx, at);
  });
}

void launch_total_params(CudaQueue& queue, const TilePlan& plan, const Sums* partial,
                         GradOut<float> dgamma, GradOut<float> dbeta) {
  const int channels = plan.tiling.channels;
  launch_total_columns(queue, "norm_act_backward: parameters", plan, partial,
                       ColumnOutputs<2>{{dbeta, dgamma}, {channels, channels}});
}

}  // namespace

void run(CudaQueue& queue, const NormBackward<float>& call) {
  const NormDims& dims = call.dims;
  const GradOut<float> dx = call.dx, dgamma = call.dgamma, dbeta = call.dbeta;
  if (dims.size() == 0) return add_nothing(queue, dims.channels, dgamma, dbeta);
  const bool params = dgamma.data || dbeta.data;
  if (!dx.data && !params) return;
  NormArguments norm = arguments_of(dims);
  norm.through_mean = call.through_mean && dims.centred;
  norm.through_variance = call.through_variance;
  const GivenStatistics statistics{call.statistics.mean, call.statistics.mean_rest,
                                   call.statistics.rstd};
  const int vec = pack_size(dims.channels, {call.x, call.dy, dx.data});
  TilePlan whole;
  if (cut_in_whole_sets(dims, vec, {4, 8}, whole)) {
    Sums* partial =
        params ? static_cast<Sums*>(queue.scratch(column_partial_bytes<2>(whole))) : nullptr;
    with_constants<4, 8>(whole, [&](auto kVec, auto kItems) {
      launch(queue, "norm_act_backward", backward_tile<kVec(), kItems(), Part::kSets>,
             Launch{whole.grid(), whole.block()}, whole.tiling, norm, call.x, call.gamma, call.beta,
             statistics, call.dy, dx, partial);
    });
    if (params) launch_total_params(queue, whole, partial, dgamma, dbeta);
    return;
  }
  const std::int64_t groups = dims.groups();
  const std::int64_t sets = groups * (dims.channels / dims.channels_per_set);
  const TilePlan plan = cut_in_chunks(groups, dims.rows(), dims.channels, vec);
  auto* partial = static_cast<Sums*>(
      queue.scratch(column_partial_bytes<2>(plan) + static_cast<std::size_t>(sets) * sizeof(Sums)));
  Sums* of_sets = partial + column_partial_bytes<2>(plan) / sizeof(Sums);
  with_constants<8>(plan, [&](auto kVec, auto kItems) {
    launch(queue, "norm_act_backward: sums", backward_tile<kVec(), kItems(), Part::kChunk>,
           Launch{plan.grid(), plan.block()}, plan.tiling, norm, call.x, call.gamma, call.beta,
           statistics, call.dy, GradOut<float>{}, partial);
    if (!dx.data) return;
    launch(queue, "norm_act_backward: sets", merge_set, Launch{sets, 128}, plan.tiling, norm,
           call.gamma, partial, of_sets);
    launch(queue, "norm_act_backward: apply", apply_backward<kVec(), kItems()>,
           Launch{plan.grid(), plan.block()}, plan.tiling, norm, call.x, call.gamma, call.beta,
           statistics, call.dy, of_sets, dx);
  });
  if (params) launch_total_params(queue, plan, partial, dgamma, dbeta);
}

void run(CudaQueue& queue, const NormPopulationBackward<float>& call) {
  const NormDims& dims = call.dims;
  const GradOut<float> dx = call.dx, dgamma = call.dgamma, dbeta = call.dbeta;
  if (dims.size() == 0) return add_nothing(queue, dims.channels, dgamma, dbeta);
  const bool params = dgamma.data || dbeta.data;
  if (!dx.data && !params) return;
  const GivenStatistics given{call.mean, nullptr, call.variance};
  const TilePlan plan = cut_in_chunks(1, dims.batch * dims.length, dims.channels,
                                      pack_size(dims.channels, {call.x, call.dy, dx.data}));
  Sums* partial =
      params ? static_cast<Sums*>(queue.scratch(column_partial_bytes<2>(plan))) : nullptr;
  with_constants<8>(plan, [&](auto kVec, auto kItems) {
    launch(queue, "norm_act_population_backward",
           backward_tile<kVec(), kItems(), Part::kPopulation>, Launch{plan.grid(), plan.block()},
           plan.tiling, arguments_of(dims), call.x, call.gamma, call.beta, given, call.dy, dx,
           partial);
  });
  if (params) launch_total_params(queue, plan, partial, dgamma, dbeta);
}

}  // namespace sidechannel::kernels
