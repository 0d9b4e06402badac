#include "kernels/relu.h"

namespace sidechannel::kernels {
namespace {
constexpr std::int64_t kGrain = 4096;  // elements that are worth a thread
}

template <class T>
void relu_forward(CpuQueue& queue, std::int64_t size, const T* x, T* y) {
  queue.parallel_for(size, kGrain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) y[i] = x[i] < T(0) ? T(0) : x[i];  // NaN stays NaN
  });
}

template <class T>
void relu_backward(CpuQueue& queue, std::int64_t size, const T* y, const T* dy, GradOut<T> dx) {
  if (!dx.data) return;
  const bool accumulate = dx.write == Write::kAccumulate;
  queue.parallel_for(size, kGrain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const T gradient = y[i] > T(0) ? dy[i] : T(0);
      dx.data[i] = accumulate ? dx.data[i] + gradient : gradient;
    }
  });
}

#define SIDECHANNEL_INSTANTIATE(T)                                   \
  template void relu_forward(CpuQueue&, std::int64_t, const T*, T*); \
  template void relu_backward(CpuQueue&, std::int64_t, const T*, const T*, GradOut<T>);
SIDECHANNEL_INSTANTIATE(float)
SIDECHANNEL_INSTANTIATE(double)
#undef SIDECHANNEL_INSTANTIATE

}  // namespace sidechannel::kernels
