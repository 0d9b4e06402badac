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

#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"

namespace sidechannel::kernels {
namespace {

constexpr int kPositions = 32;
constexpr int kWarps = 8;

struct WarpSums {
  double of_warp[kWarps][kPositions];

  // The sum over the block's warps, for each position.
  __device__ __forceinline__ double total(double mine) {
    of_warp[threadIdx.y][threadIdx.x] = mine;
    __syncthreads();  // every warp's sums are written before they are added
    double sum = 0;
    for (const auto& warp : of_warp) sum += warp[threadIdx.x];
    __syncthreads();  // all are read before the next call writes
    return sum;
  }
};

// With one block the count is moved here; otherwise other blocks may still have to read it.
__global__ void update(std::int64_t samples, std::int64_t length, const float* x,
                       const std::int64_t* halted, std::int64_t* count, double* mean, double* m2) {
  if (halted && *halted != 0) return;  // all threads alike
  auto& sums = device::static_shared<WarpSums>();
  const std::int64_t l = std::int64_t{blockIdx.x} * kPositions + threadIdx.x;
  const bool inside = l < length;
  const std::int64_t before = *count;
  const auto added = static_cast<double>(samples);

  double sum = 0;
  for (std::int64_t n = threadIdx.y; inside && n < samples; n += kWarps) sum += x[n * length + l];
  const double batch_mean = sums.total(sum) / added;
  double squares = 0;
  for (std::int64_t n = threadIdx.y; inside && n < samples; n += kWarps) {
    const double deviation = x[n * length + l] - batch_mean;
    squares += deviation * deviation;
  }
  squares = sums.total(squares);

  if (inside && threadIdx.y == 0) {
    const double total = static_cast<double>(before) + added;
    const double delta = batch_mean - mean[l];
    mean[l] += delta * added / total;
    m2[l] += squares + delta * delta * static_cast<double>(before) * added / total;
  }
  // Every thread has read the count before the barriers above.
  if (gridDim.x == 1 && threadIdx.x == 0 && threadIdx.y == 0) *count = before + samples;
}

__global__ void move_count(std::int64_t samples, const std::int64_t* halted, std::int64_t* count) {
  if (!halted || *halted == 0) *count += samples;
}

}  // namespace

void moments_update(CudaQueue& queue, std::int64_t samples, std::int64_t length, const float* x,
                    const std::int64_t* halted, std::int64_t* count, double* mean, double* m2) {
  if (samples == 0) return;
  const std::int64_t blocks = ceil_div(length, kPositions);
  if (blocks > 0) {
    launch(queue, "moments_update", update, Launch{blocks, dim3(kPositions, kWarps)}, samples,
           length, x, halted, count, mean, m2);
  }
  if (blocks != 1) {
    launch(queue, "moments_update: count", move_count, Launch{1, 1}, samples, halted, count);
  }
}

}  // namespace sidechannel::kernels
