#include "kernels/mse.h"

#include <algorithm>

#include "kernels/cpu/blocked_sum.h"

namespace sidechannel::kernels {

template <class T>
void run(CpuQueue& queue, const MseForward<T>& call) {
  const auto [size, target_size, sets] = call.dims;
  for (std::int64_t set = 0; set < sets; ++set) {
    const T* const y = call.y + set * size;
    const double sum = blocked_sum(queue, size, [=, period = target_size](std::int64_t i) {
      const double error = static_cast<double>(y[i]) - static_cast<double>(call.target[i % period]);
      return error * error;
    });
    call.loss[set] = static_cast<T>(sum / static_cast<double>(std::max<std::int64_t>(size, 1)));
  }
}

template <class T>
void run(CpuQueue& queue, const MseBackward<T>& call) {
  if (!call.dy.data) return;
  const bool accumulate = call.dy.write == Write::kAccumulate;
  const auto [size, period, sets] = call.dims;
  for (std::int64_t set = 0; set < sets; ++set) {
    const T scale = call.dloss[set] * T(2) / static_cast<T>(size);
    const T* const y = call.y + set * size;
    T* const dy = call.dy.data + set * size;
    queue.parallel_for(size, 4096, [&, period = period](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end;) {
        const std::int64_t round = i / period * period;  // one division for all of it
        for (const std::int64_t last = std::min(end, round + period); i < last; ++i) {
          const T gradient = scale * (y[i] - call.target[i - round]);
          dy[i] = accumulate ? dy[i] + gradient : gradient;
        }
      }
    });
  }
}

template void run(CpuQueue&, const MseForward<float>&);
template void run(CpuQueue&, const MseForward<double>&);
template void run(CpuQueue&, const MseBackward<float>&);
template void run(CpuQueue&, const MseBackward<double>&);

}  // namespace sidechannel::kernels
