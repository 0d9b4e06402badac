#include "kernels/ema.h"

namespace sidechannel::kernels {

template <class T>
void run(CpuQueue& queue, const EmaUpdate<T>& call) {
  if (call.halted && *call.halted != 0) return;
  const auto keep = static_cast<T>(call.decay), take = static_cast<T>(1 - call.decay);
  queue.parallel_for(call.size, 4096, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      call.average[i] = keep * call.average[i] + take * call.value[i];
    }
  });
}

template void run(CpuQueue&, const EmaUpdate<float>&);
template void run(CpuQueue&, const EmaUpdate<double>&);

}  // namespace sidechannel::kernels
