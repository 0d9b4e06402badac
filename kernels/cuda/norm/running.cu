// Running statistics of normalization:
//
//   running = (1 - momentum) * running + momentum * current
//
// with the batch's mean and unbiased variance, in double. statistics [groups, channels];
// running_mean, running_variance [channels]. One thread for each channel takes the groups in order;
// grid.y counts layers.

#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"
#include "kernels/norm_running.h"

namespace sidechannel::kernels {
namespace {

template <int kMost>
struct Updates {
  NormUpdateRunning<float> at[kMost];
};

template <int kMost>
__global__ void update_running(const __grid_constant__ Updates<kMost> updates) {
  device::after_earlier_launches();
  const NormUpdateRunning<float>& call = updates.at[blockIdx.y];
  const std::int64_t c = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (c < call.dims.channels) move_running(call, c);
}

template <int kMost>
void update(CudaQueue& queue, View<NormUpdateRunning<float>> calls) {
  constexpr unsigned kThreads = 64;
  Updates<kMost> arguments = {};
  std::int64_t channels = 0;
  int count = 0;
  for (const NormUpdateRunning<float>& call : calls) {
    if (call.dims.size() == 0) continue;
    arguments.at[count++] = call;
    channels = std::max(channels, call.dims.channels);
  }
  launch(queue, "norm_update_running", update_running<kMost>,
         Launch{Grid{ceil_div(channels, kThreads), count}, kThreads}, arguments);
}

}  // namespace

void run(CudaQueue& queue, View<NormUpdateRunning<float>> calls) {
  constexpr std::size_t kMost = 30;  // of 130 bytes: a launch's arguments are 4 KB at most
  calls.for_parts(kMost, [&](View<NormUpdateRunning<float>> some) { update<kMost>(queue, some); });
}

void run(CudaQueue& queue, const NormUpdateRunning<float>& call) {
  update<1>(queue, {&call, 1});
}

}  // namespace sidechannel::kernels
