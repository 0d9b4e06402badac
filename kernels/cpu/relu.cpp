// ReLU on the CPU, with selections of whole vectors: signs are random, and a branch on each would
// be mispredicted every other time.

#include "kernels/relu.h"

#include "kernels/cpu/simd.h"

namespace sidechannel::kernels {

namespace hn = simd::hn;

namespace {

constexpr std::int64_t kGrain = 4096;  // elements that are worth a thread
}

template <class T>
void relu_forward(CpuQueue& queue, std::int64_t size, const T* x, T* y) {
  queue.parallel_for(size, kGrain, [=](std::int64_t begin, std::int64_t end) {
    simd::for_vectors<T>(begin, end, [&](auto d, std::int64_t i) {
      const auto value = hn::LoadU(d, x + i);
      hn::StoreU(simd::at_least(value, hn::Zero(d)), d, y + i);
    });
  });
}

template <class T>
void relu_backward(CpuQueue& queue, std::int64_t size, const T* y, const T* dy, GradOut<T> dx) {
  if (!dx.data) return;
  const bool accumulate = dx.write == Write::kAccumulate;
  queue.parallel_for(size, kGrain, [=](std::int64_t begin, std::int64_t end) {
    simd::for_vectors<T>(begin, end, [&](auto d, std::int64_t i) {
      const auto gradient =
          hn::IfThenElseZero(hn::Gt(hn::LoadU(d, y + i), hn::Zero(d)), hn::LoadU(d, dy + i));
      T* out = dx.data + i;
      hn::StoreU(accumulate ? hn::Add(hn::LoadU(d, out), gradient) : gradient, d, out);
    });
  });
}

#define SIDECHANNEL_INSTANTIATE(T)                                   \
  template void relu_forward(CpuQueue&, std::int64_t, const T*, T*); \
  template void relu_backward(CpuQueue&, std::int64_t, const T*, const T*, GradOut<T>);
SIDECHANNEL_INSTANTIATE(float)
SIDECHANNEL_INSTANTIATE(double)
#undef SIDECHANNEL_INSTANTIATE

}  // namespace sidechannel::kernels
