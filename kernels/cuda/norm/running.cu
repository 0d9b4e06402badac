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

__global__ void update_running(NormUpdateRunning<float> call) {
  const std::int64_t c = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c < call.dims.channels) move_running(call, c);
}

}  // namespace

void run(CudaQueue& queue, const NormUpdateRunning<float>& call) {
  if (call.dims.size() == 0) return;
  constexpr unsigned kThreads = 64;
  const std::int64_t blocks = ceil_div(call.dims.channels, kThreads);
  launch(queue, "norm_update_running", update_running, Launch{blocks, kThreads}, call);
}

}  // namespace sidechannel::kernels
