#include "kernels/weighted_sum.h"

#include <algorithm>

namespace sidechannel::kernels {
namespace {

// Calls body(n, begin, end) for pieces of each sample's elements, counted on through the batch.
template <class Body>
void for_samples(CpuQueue& queue, const WeightedSumDims& dims, const Body& body) {
  const std::int64_t size = dims.size;
  queue.parallel_for(dims.batch * size, 4096, [&](std::int64_t begin, std::int64_t end) {
    while (begin < end) {
      const std::int64_t n = begin / size, last = std::min(end, (n + 1) * size);
      body(n, begin, last);
      begin = last;
    }
  });
}

}  // namespace

template <class T>
void run(CpuQueue& queue, const WeightedSumForward<T>& call) {
  for_samples(queue, call.dims, [&](std::int64_t n, std::int64_t begin, std::int64_t end) {
    for (int j = 0; j < call.dims.terms; ++j) {
      const T w = call.w[j][n];
      const T* x = call.x[j];
      for (std::int64_t i = begin; i < end; ++i) {
        call.y[i] = j == 0 ? w * x[i] : call.y[i] + w * x[i];
      }
    }
    if (!call.held) return;
    for (std::int64_t i = begin; i < end; ++i) {
      call.y[i] = call.held[i - n * call.dims.size] != 0 ? call.hold[i] : call.y[i];
    }
  });
}

template <class T>
void run(CpuQueue& queue, const WeightedSumBackward<T>& call) {
  const auto is_held = [&](std::int64_t n, std::int64_t i) {
    return call.held && call.held[i - n * call.dims.size] != 0;
  };
  // dx = gradient(n, i)
  const auto back = [&](GradOut<T> dx, const auto& gradient) {
    if (!dx.data) return;
    const bool accumulate = dx.write == Write::kAccumulate;
    for_samples(queue, call.dims, [&](std::int64_t n, std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T own = gradient(n, i);
        dx.data[i] = accumulate ? dx.data[i] + own : own;
      }
    });
  };
  for (int j = 0; j < call.dims.terms; ++j) {
    back(call.dx[j], [&, w = call.w[j]](std::int64_t n, std::int64_t i) {
      return is_held(n, i) ? T(0) : w[n] * call.dy[i];
    });
  }
  back(call.dhold,
       [&](std::int64_t n, std::int64_t i) { return is_held(n, i) ? call.dy[i] : T(0); });
}

template void run(CpuQueue&, const WeightedSumForward<float>&);
template void run(CpuQueue&, const WeightedSumForward<double>&);
template void run(CpuQueue&, const WeightedSumBackward<float>&);
template void run(CpuQueue&, const WeightedSumBackward<double>&);

}  // namespace sidechannel::kernels
