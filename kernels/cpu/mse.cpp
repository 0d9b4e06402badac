#include "kernels/mse.h"

#include <algorithm>

#include "kernels/cpu/blocked_sum.h"

namespace sidechannel::kernels {

template <class T>
void run(CpuQueue& queue, const MseForward<T>& call) {
  const auto [size, target_size, sets, weights_size] = call.dims;
  for (std::int64_t set = 0; set < sets; ++set) {
    const T* const y = call.y + set * size;
    const auto squared = [=, period = target_size](std::int64_t i) {
      const double error = static_cast<double>(y[i]) - static_cast<double>(call.target[i % period]);
      return error * error;
    };
    const auto weighted = [=, period = weights_size](std::int64_t i) {
      return static_cast<double>(call.weights[i % period]) * squared(i);
    };
    const double sum =
        call.weights ? blocked_sum(queue, size, weighted) : blocked_sum(queue, size, squared);
    call.loss[set] = static_cast<T>(sum / static_cast<double>(std::max<std::int64_t>(size, 1)));
  }
}

template <class T>
void run(CpuQueue& queue, const MseBackward<T>& call) {
  if (!call.dy.data) return;
  const bool accumulate = call.dy.write == Write::kAccumulate;
  const auto [size, period, sets, weights_size] = call.dims;
  const auto write = [&, size = size, period = period](std::int64_t set, const auto& weight) {
    const T scale = call.dloss[set] * T(2) / static_cast<T>(size);
    const T* const y = call.y + set * size;
    T* const dy = call.dy.data + set * size;
    queue.parallel_for(size, 4096, [&, period = period](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end;) {
        const std::int64_t round = i / period * period;  // one division for all of it
        for (const std::int64_t last = std::min(end, round + period); i < last; ++i) {
          const T gradient = scale * (y[i] - call.target[i - round]) * weight(i);
          dy[i] = accumulate ? dy[i] + gradient : gradient;
        }
      }
    });
  };
  for (std::int64_t set = 0; set < sets; ++set) {
    if (call.weights) {
      write(set, [=, period = weights_size](std::int64_t i) { return call.weights[i % period]; });
    } else {
      write(set, [](std::int64_t) { return T(1); });  // to the bit what it is without
    }
  }
}

template void run(CpuQueue&, const MseForward<float>&);
template void run(CpuQueue&, const MseForward<double>&);
template void run(CpuQueue&, const MseBackward<float>&);
template void run(CpuQueue&, const MseBackward<double>&);

}  // namespace sidechannel::kernels
