// Streaming mean and sum of squared deviations of each position l, in double:
//
//   b = sum over n of x[n, l] / samples,  s = sum of (x[n, l] - b)^2,  d = b - mean[l]
//   mean[l] += d * samples / total,  m2[l] += s + d^2 * count * samples / total
//
// with total = count + samples (Chan, Golub & LeVeque 1979). x [samples, length]; count, mean and
// m2 in device memory.
//
// A block takes 32 neighbouring positions, which a warp reads at once. Its warps share the samples:
// warp r takes r, r + 8, ...; then the warps' sums are added one after the other.

#include "kernels/moments.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

namespace sidechannel::kernels {
namespace {

constexpr int kPositions = device::kWarpSize;
constexpr int kWarps = 8;

// Of a launch: grid.y counts them.
template <int kMost>
struct Streams {
  MomentsUpdate<float> at[kMost];
};

// With one block the count is moved here; otherwise other blocks may still have to read it.
template <int kMost>
__global__ void update(const __grid_constant__ Streams<kMost> streams) {
  device::after_earlier_launches();
  const MomentsUpdate<float>& call = streams.at[blockIdx.y];
  if (call.halted && *call.halted != 0) return;  // all threads alike
  const std::int64_t samples = call.samples, length = call.length;
  auto& sums = device::static_shared<device::WarpSums<kWarps>>();
  const std::int64_t l = std::int64_t{blockIdx.x} * kPositions + threadIdx.x;
  const bool inside = l < length;
  const std::int64_t before = *call.count;
  const auto added = static_cast<double>(samples);

  double sum = 0;
  for (std::int64_t n = threadIdx.y; inside && n < samples; n += kWarps)
    sum += call.x[n * length + l];
  const double batch_mean = sums.total(sum) / added;
  double squares = 0;
  for (std::int64_t n = threadIdx.y; inside && n < samples; n += kWarps) {
    const double deviation = call.x[n * length + l] - batch_mean;
    squares += deviation * deviation;
  }
  squares = sums.total(squares);

  if (inside && threadIdx.y == 0) {
    const double total = static_cast<double>(before) + added;
    const double delta = batch_mean - call.mean[l];
    call.mean[l] += delta * added / total;
    call.m2[l] += squares + delta * delta * static_cast<double>(before) * added / total;
  }
  // Every thread has read the count before the barriers above.
  if (gridDim.x == 1 && threadIdx.x == 0 && threadIdx.y == 0) *call.count = before + samples;
}

template <int kMost>
__global__ void move_count(const __grid_constant__ Streams<kMost> streams) {
  device::after_earlier_launches();
  const MomentsUpdate<float>& call = streams.at[blockIdx.y];
  if (!call.halted || *call.halted == 0) *call.count += call.samples;
}

template <int kMost>
void update_streams(CudaQueue& queue, View<MomentsUpdate<float>> calls) {
  const auto count = static_cast<std::int64_t>(calls.size());
  Streams<kMost> streams = {};
  std::copy(calls.begin(), calls.end(), streams.at);
  const std::int64_t blocks = ceil_div(calls[0].length, kPositions);
  const Launch how{{blocks, count}, dim3(kPositions, kWarps)};
  if (blocks > 0) launch(queue, "moments_update", update<kMost>, how, streams);
  if (blocks != 1) {
    launch(queue, "moments_update: count", move_count<kMost>, Launch{{1, count}, 1}, streams);
  }
}

}  // namespace

void run(CudaQueue& queue, const MomentsUpdate<float>& call) {
  run(queue, View<MomentsUpdate<float>>(&call, 1));
}

void run(CudaQueue& queue, View<MomentsUpdate<float>> calls) {
  constexpr std::size_t kMost = 64;  // of 56 bytes: a launch's arguments are 4 KB at most
  if (calls.size() == 0 || calls[0].samples == 0) return;
  if (calls.size() == 1) return update_streams<1>(queue, calls);
  calls.for_parts(kMost,
                  [&](View<MomentsUpdate<float>> some) { update_streams<kMost>(queue, some); });
}

}  // namespace sidechannel::kernels
