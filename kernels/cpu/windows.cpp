#include "kernels/windows.h"

#include <algorithm>

namespace sidechannel::kernels {
namespace {
constexpr std::int64_t kGrain = 4096;  // elements that are worth a thread
}

template <class T>
void run(CpuQueue& queue, const WindowsForward<T>& call) {
  const WindowsDims& dims = call.dims;
  const std::int64_t grain = kGrain / dims.length + 1;
  queue.parallel_for(dims.samples * dims.count, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* from = call.x + row / dims.count * dims.extent() + row % dims.count * dims.stride;
      std::copy_n(from, dims.length, call.y + row * dims.length);
    }
  });
}

template <class T>
void run(CpuQueue& queue, const WindowsBackward<T>& call) {
  const GradOut<T> dx = call.dx;
  if (!dx.data) return;
  const WindowsDims dims = call.dims;
  const std::int64_t extent = dims.extent();
  const std::int64_t grain = kGrain / dims.count + 1;
  queue.parallel_for(dims.samples * extent, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const T* windows = call.dy + i / extent * dims.count * dims.length;
      T sum = 0;
      for (std::int64_t w = 0; w < dims.count; ++w) {
        const std::int64_t at = i % extent - w * dims.stride;
        if (at >= 0 && at < dims.length) sum += windows[w * dims.length + at];
      }
      dx.data[i] = dx.write == Write::kAccumulate ? dx.data[i] + sum : sum;
    }
  });
}

template void run(CpuQueue&, const WindowsForward<float>&);
template void run(CpuQueue&, const WindowsForward<double>&);
template void run(CpuQueue&, const WindowsBackward<float>&);
template void run(CpuQueue&, const WindowsBackward<double>&);

}  // namespace sidechannel::kernels
