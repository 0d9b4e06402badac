#include "kernels/windows.h"

#include <algorithm>

namespace sidechannel::kernels {
namespace {
constexpr std::int64_t kGrain = 4096;  // elements that are worth a thread
}

template <class T>
void windows_forward(CpuQueue& queue, const WindowsDims& dims, const T* x, T* y) {
  const std::int64_t grain = kGrain / dims.length + 1;
  queue.parallel_for(dims.samples * dims.count, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* from = x + row / dims.count * dims.extent() + row % dims.count * dims.stride;
      std::copy_n(from, dims.length, y + row * dims.length);
    }
  });
}

template <class T>
void windows_backward(CpuQueue& queue, const WindowsDims& dims, const T* dy, GradOut<T> dx) {
  if (!dx.data) return;
  const std::int64_t extent = dims.extent();
  queue.parallel_for(dims.samples * extent, kGrain / dims.count + 1,
                     [=](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t i = begin; i < end; ++i) {
                         const T* windows = dy + i / extent * dims.count * dims.length;
                         T sum = 0;
                         for (std::int64_t w = 0; w < dims.count; ++w) {
                           const std::int64_t at = i % extent - w * dims.stride;
                           if (at >= 0 && at < dims.length) sum += windows[w * dims.length + at];
                         }
                         dx.data[i] = dx.write == Write::kAccumulate ? dx.data[i] + sum : sum;
                       }
                     });
}

#define SIDECHANNEL_INSTANTIATE(T)                                            \
  template void windows_forward(CpuQueue&, const WindowsDims&, const T*, T*); \
  template void windows_backward(CpuQueue&, const WindowsDims&, const T*, GradOut<T>);
SIDECHANNEL_INSTANTIATE(float)
SIDECHANNEL_INSTANTIATE(double)
#undef SIDECHANNEL_INSTANTIATE

}  // namespace sidechannel::kernels
