// Running statistics of normalization:
//
//   running = (1 - momentum) * running + momentum * current
//
// with the batch's mean and unbiased variance, in double. mean, rstd [groups, channels];
// running_mean, running_variance [channels]. One thread for each channel takes the groups in order.

#include <cuda_runtime.h>

#include "kernels/cuda/launch.h"
#include "kernels/norm_relu.h"

namespace sidechannel::kernels {
namespace {

__global__ void update_running(NormDims dims, double momentum, const float* mean, const float* rstd,
                               float* running_mean, float* running_variance) {
  const std::int64_t c = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c >= dims.channels) return;
  const std::int64_t groups = dims.batch / dims.samples_per_set;
  const bool average_first = dims.samples_per_set == 1;
  const std::int64_t updates = average_first ? 1 : groups;
  const std::int64_t sets = average_first ? groups : 1;  // of one update
  const auto count =
      static_cast<double>(dims.channels_per_set * dims.samples_per_set * dims.length);
  const double unbiased = count / (count > 2 ? count - 1 : 1.0);

  double moving_mean = running_mean[c];
  double moving_variance = running_variance[c];
  for (std::int64_t update = 0; update < updates; ++update) {
    double current_mean = 0;
    double current_variance = 0;
    for (std::int64_t set = update * sets; set < (update + 1) * sets; ++set) {
      const double r = rstd[set * dims.channels + c];
      const double variance = 1 / (r * r) - dims.epsilon;
      current_mean += mean[set * dims.channels + c];
      current_variance += variance < 0 ? 0.0 : variance;  // NaN stays NaN
    }
    current_mean /= static_cast<double>(sets);
    current_variance *= unbiased / static_cast<double>(sets);
    moving_mean = (1 - momentum) * moving_mean + momentum * current_mean;
    moving_variance = (1 - momentum) * moving_variance + momentum * current_variance;
  }
  running_mean[c] = static_cast<float>(moving_mean);
  running_variance[c] = static_cast<float>(moving_variance);
}

}  // namespace

void norm_update_running(CudaQueue& queue, const NormDims& dims, double momentum, const float* mean,
                         const float* rstd, float* running_mean, float* running_variance) {
  constexpr unsigned kThreads = 64;
  const auto blocks = static_cast<unsigned>((dims.channels + kThreads - 1) / kThreads);
  launch(queue, "norm_update_running", update_running, Launch{dim3(blocks), dim3(kThreads)}, dims,
         momentum, mean, rstd, running_mean, running_variance);
}

}  // namespace sidechannel::kernels
