#include "kernels/activate.h"

#include "kernels/cpu/activation.h"

namespace sidechannel::kernels {

namespace hn = simd::hn;

namespace {

constexpr std::int64_t kGrain = 4096;  // elements that are worth a thread
}

template <class T>
void run(CpuQueue& queue, const ActivateForward<T>& call) {
  simd::with_activation(call.activation, [&](auto activation) {
    queue.parallel_for(call.size, kGrain, [=](std::int64_t begin, std::int64_t end) {
      simd::for_vectors<T>(begin, end, [&](auto d, std::int64_t i) {
        hn::StoreU(simd::activate(d, activation, hn::LoadU(d, call.x + i)), d, call.y + i);
      });
    });
  });
}

template <class T>
void run(CpuQueue& queue, const ActivateBackward<T>& call) {
  if (!call.dx.data) return;
  const bool accumulate = call.dx.write == Write::kAccumulate;
  simd::with_activation(call.activation, [&](auto activation) {
    queue.parallel_for(call.size, kGrain, [=](std::int64_t begin, std::int64_t end) {
      simd::for_vectors<T>(begin, end, [&](auto d, std::int64_t i) {
        const auto kept = hn::LoadU(d, call.kept + i), dy = hn::LoadU(d, call.dy + i);
        const auto gradient = simd::activate_backward(d, activation, kept, dy);
        T* out = call.dx.data + i;
        hn::StoreU(accumulate ? hn::Add(hn::LoadU(d, out), gradient) : gradient, d, out);
      });
    });
  });
}

template void run(CpuQueue&, const ActivateForward<float>&);
template void run(CpuQueue&, const ActivateForward<double>&);
template void run(CpuQueue&, const ActivateBackward<float>&);
template void run(CpuQueue&, const ActivateBackward<double>&);

}  // namespace sidechannel::kernels
