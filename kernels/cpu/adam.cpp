#include "kernels/adam.h"

#include <cmath>

#include "kernels/cpu/simd.h"

namespace sidechannel::kernels {

namespace hn = simd::hn;

template <class T>
void adam_update(CpuQueue& queue, const AdamStep& adam, std::int64_t size, const T* g, T* p, T* m,
                 T* v) {
  const auto step = static_cast<double>(adam.step);
  const auto rate = static_cast<T>(adam.learning_rate / (1 - std::pow(adam.beta1, step)));
  const auto correction = static_cast<T>(1 / std::sqrt(1 - std::pow(adam.beta2, step)));
  // Ranges are split in cache lines: the pieces below then do not depend on the number of threads.
  constexpr std::int64_t kLine = 64;
  queue.parallel_for((size + kLine - 1) / kLine, 64, [&](std::int64_t begin, std::int64_t end) {
    simd::for_vectors<T>(begin * kLine, std::min(end * kLine, size), [&](auto d, std::int64_t i) {
      const auto gradient = hn::LoadU(d, g + i);
      const auto mean =
          hn::MulAdd(hn::Set(d, static_cast<T>(1 - adam.beta1)), gradient,
                     hn::Mul(hn::Set(d, static_cast<T>(adam.beta1)), hn::LoadU(d, m + i)));
      const auto square =
          hn::MulAdd(hn::Mul(hn::Set(d, static_cast<T>(1 - adam.beta2)), gradient), gradient,
                     hn::Mul(hn::Set(d, static_cast<T>(adam.beta2)), hn::LoadU(d, v + i)));
      const auto scale = hn::MulAdd(hn::Sqrt(square), hn::Set(d, correction),
                                    hn::Set(d, static_cast<T>(adam.epsilon)));
      hn::StoreU(mean, d, m + i);
      hn::StoreU(square, d, v + i);
      hn::StoreU(hn::NegMulAdd(hn::Set(d, rate), hn::Div(mean, scale), hn::LoadU(d, p + i)), d,
                 p + i);
    });
  });
}

template void adam_update(CpuQueue&, const AdamStep&, std::int64_t, const float*, float*, float*,
                          float*);
template void adam_update(CpuQueue&, const AdamStep&, std::int64_t, const double*, double*, double*,
                          double*);

}  // namespace sidechannel::kernels
