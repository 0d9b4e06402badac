#include "kernels/mse.h"

#include <algorithm>

#include "kernels/cpu/blocked_sum.h"

namespace sidechannel::kernels {

template <class T>
void run(CpuQueue& queue, const MseForward<T>& call) {
  const std::int64_t size = call.dims.size;
  const double sum = blocked_sum(queue, size, [=](std::int64_t i) {
    const double error = static_cast<double>(call.y[i]) -
                         static_cast<double>(call.target[i % call.dims.target_size]);
    return error * error;
  });
  *call.loss = static_cast<T>(sum / static_cast<double>(std::max<std::int64_t>(size, 1)));
}

template <class T>
void run(CpuQueue& queue, const MseBackward<T>& call) {
  const GradOut<T> dy = call.dy;
  if (!dy.data) return;
  const T scale = *call.dloss * T(2) / static_cast<T>(call.dims.size);
  const bool accumulate = dy.write == Write::kAccumulate;
  queue.parallel_for(call.dims.size, 4096, [=](std::int64_t begin, std::int64_t end) {
    const std::int64_t period = call.dims.target_size;
    for (std::int64_t i = begin; i < end;) {
      const std::int64_t round = i / period * period;  // one division for all of it
      for (const std::int64_t last = std::min(end, round + period); i < last; ++i) {
        const T gradient = scale * (call.y[i] - call.target[i - round]);
        dy.data[i] = accumulate ? dy.data[i] + gradient : gradient;
      }
    }
  });
}

template void run(CpuQueue&, const MseForward<float>&);
template void run(CpuQueue&, const MseForward<double>&);
template void run(CpuQueue&, const MseBackward<float>&);
template void run(CpuQueue&, const MseBackward<double>&);

}  // namespace sidechannel::kernels
