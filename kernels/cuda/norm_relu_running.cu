// Running statistics of normalization:
//
//   running = (1 - momentum) * running + momentum * current
//
// with the batch's mean and unbiased variance, in double. mean, rstd [groups, channels];
// running_mean, running_variance [channels].
//
// A block has 32 channels. Its threads share the groups' divisions, 32 groups at a time; then one
// thread for each channel takes the groups in order.

#include <cuda_runtime.h>

#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/norm_relu.h"

namespace sidechannel::kernels {
namespace {

constexpr int kChannels = 32;
constexpr int kRows = 8;     // of threads
constexpr int kGroups = 32;  // at a time

__global__ void __launch_bounds__(kChannels* kRows)
    update_running(NormDims dims, double momentum, const float* mean, const float* rstd,
                   float* running_mean, float* running_variance) {
  device::after_earlier_launches();
  struct Shared {
    double mean[kGroups][kChannels];
    double variance[kGroups][kChannels];
  };
  Shared& shared = device::static_shared<Shared>();
  const int x = static_cast<int>(threadIdx.x);
  const int row = static_cast<int>(threadIdx.y);
  const std::int64_t c = std::int64_t{blockIdx.x} * kChannels + x;
  const bool inside = c < dims.channels;
  const std::int64_t groups = dims.batch / dims.samples_per_set;
  const bool average_first = dims.samples_per_set == 1;
  const auto count =
      static_cast<double>(dims.channels_per_set * dims.samples_per_set * dims.length);
  const double unbiased = count / (count > 2 ? count - 1 : 1.0);

  double moving_mean = inside && row == 0 ? running_mean[c] : 0.0f;
  double moving_variance = inside && row == 0 ? running_variance[c] : 0.0f;
  const auto move = [&](double current_mean, double current_variance) {
    moving_mean = (1 - momentum) * moving_mean + momentum * current_mean;
    moving_variance = (1 - momentum) * moving_variance + momentum * current_variance;
  };
  double sum_of_means = 0;
  double sum_of_variances = 0;
  for (std::int64_t first = 0; first < groups; first += kGroups) {
    const int some = static_cast<int>(min(std::int64_t{kGroups}, groups - first));
#pragma unroll
    for (int i = 0; i < kGroups / kRows; ++i) {
      const int group = row + i * kRows;
      if (!inside || group >= some) continue;
      const std::int64_t at = (first + group) * dims.channels + c;
      const double r = rstd[at];
      const double variance = 1 / (r * r) - dims.epsilon;
      shared.mean[group][x] = mean[at];
      shared.variance[group][x] = variance < 0 ? 0.0 : variance;  // NaN stays NaN
    }
    __syncthreads();  // these groups' statistics stand
    for (int group = 0; row == 0 && inside && group < some; ++group) {
      if (average_first) {
        sum_of_means += shared.mean[group][x];
        sum_of_variances += shared.variance[group][x];
      } else {
        move(shared.mean[group][x], shared.variance[group][x] * unbiased);
      }
    }
    __syncthreads();  // they have been read before the next are written
  }
  if (row != 0 || !inside) return;
  if (average_first) {
    const auto sets = static_cast<double>(groups);
    move(sum_of_means / sets, sum_of_variances * (unbiased / sets));
  }
  running_mean[c] = static_cast<float>(moving_mean);
  running_variance[c] = static_cast<float>(moving_variance);
}

}  // namespace

void norm_update_running(CudaQueue& queue, const NormDims& dims, double momentum, const float* mean,
                         const float* rstd, float* running_mean, float* running_variance) {
  const auto blocks = static_cast<unsigned>((dims.channels + kChannels - 1) / kChannels);
  launch(queue, "norm_update_running", update_running, Launch{dim3(blocks), dim3(kChannels, kRows)},
         dims, momentum, mean, rstd, running_mean, running_variance);
}

}  // namespace sidechannel::kernels
