// Running statistics of normalization:
//
//   running = (1 - momentum) * running + momentum * current
//
// with the batch's mean and unbiased variance, in double. statistics [groups, channels];
// running_mean, running_variance [channels]. One thread for each channel takes the groups in order.

#include <cuda_runtime.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"
#include "kernels/norm_running.h"

namespace sidechannel::kernels {
namespace {

__global__ void update_running(NormDims dims, double momentum, NormStatistics<float> statistics,
                               float* running_mean, float* running_variance) {
  const std::int64_t c = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c >= dims.channels) return;
  move_running(dims, momentum, statistics, c, running_mean[c], running_variance[c]);
}

}  // namespace

void norm_update_running(CudaQueue& queue, const NormDims& dims, double momentum,
                         const NormStatistics<float>& statistics, float* running_mean,
                         float* running_variance) {
  if (dims.size() == 0) return;
  constexpr unsigned kThreads = 64;
  const std::int64_t blocks = ceil_div(dims.channels, kThreads);
  launch(queue, "norm_update_running", update_running, Launch{blocks, kThreads}, dims, momentum,
         statistics, running_mean, running_variance);
}

}  // namespace sidechannel::kernels
