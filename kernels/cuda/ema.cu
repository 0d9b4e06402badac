// average = decay * average + (1 - decay) * value, element by element: how threads map to elements
// is told in map.cuh. Each operation rounds, as the CPU's do: both give the same bits.

#include "kernels/ema.h"

#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

struct Average {
  float keep, take;
  const std::int64_t* halted;

  __device__ __forceinline__ float operator()(std::int64_t, float average, float value) const {
    if (halted && *halted != 0) return average;
    return __fadd_rn(__fmul_rn(keep, average), __fmul_rn(take, value));
  }
};

}  // namespace

void run(CudaQueue& queue, const EmaUpdate<float>& call) {
  const Average average{static_cast<float>(call.decay), static_cast<float>(1 - call.decay),
                        call.halted};
  map(queue, "ema_update", call.size, average, {call.average}, call.average, call.value);
}

}  // namespace sidechannel::kernels
