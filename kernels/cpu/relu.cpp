#include "kernels/relu.h"

#include "kernels/cpu/activation.h"

namespace sidechannel::kernels {

namespace hn = simd::hn;

namespace {

constexpr std::int64_t kGrain = 4096;  // elements that are worth a thread
}

template <class T>
void run(CpuQueue& queue, const ReluForward<T>& call) {
  queue.parallel_for(call.size, kGrain, [=](std::int64_t begin, std::int64_t end) {
    simd::for_vectors<T>(begin, end, [&](auto d, std::int64_t i) {
      const auto value = hn::LoadU(d, call.x + i);
      hn::StoreU(simd::activate(d, Activation::kRelu, value), d, call.y + i);
    });
  });
}

template <class T>
void run(CpuQueue& queue, const ReluBackward<T>& call) {
  if (!call.dx.data) return;
  const bool accumulate = call.dx.write == Write::kAccumulate;
  queue.parallel_for(call.size, kGrain, [=](std::int64_t begin, std::int64_t end) {
    simd::for_vectors<T>(begin, end, [&](auto d, std::int64_t i) {
      const auto y = hn::LoadU(d, call.y + i), dy = hn::LoadU(d, call.dy + i);
      const auto gradient = simd::activate_backward(d, Activation::kRelu, y, dy);
      T* out = call.dx.data + i;
      hn::StoreU(accumulate ? hn::Add(hn::LoadU(d, out), gradient) : gradient, d, out);
    });
  });
}

template void run(CpuQueue&, const ReluForward<float>&);
template void run(CpuQueue&, const ReluForward<double>&);
template void run(CpuQueue&, const ReluBackward<float>&);
template void run(CpuQueue&, const ReluBackward<double>&);

}  // namespace sidechannel::kernels
