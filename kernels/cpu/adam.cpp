#include "kernels/adam.h"

#include "kernels/cpu/simd.h"

namespace sidechannel::kernels {

namespace hn = simd::hn;

template <class T>
void adam_begin(CpuQueue&, const AdamRule& rule, const double* sum_of_squares, const T* loss,
                AdamState* state) {
  *state = begin_step(rule, *state, *sum_of_squares, loss ? static_cast<double>(*loss) : 0.0);
}

template <class T>
void adam_update(CpuQueue& queue, const AdamRule& rule, const AdamState* state, std::int64_t size,
                 const T* g, T* p, T* m, T* v) {
  if (state->halted != 0) return;
  const auto rate = static_cast<T>(state->rate);
  const auto correction = static_cast<T>(state->correction);
  // Ranges are split in cache lines: the pieces below then do not depend on the number of threads.
  constexpr std::int64_t kLine = 64;
  queue.parallel_for((size + kLine - 1) / kLine, 64, [&](std::int64_t begin, std::int64_t end) {
    simd::for_vectors<T>(begin * kLine, std::min(end * kLine, size), [&](auto d, std::int64_t i) {
      const auto gradient = hn::LoadU(d, g + i);
      const auto mean =
          hn::MulAdd(hn::Set(d, static_cast<T>(1 - rule.beta1)), gradient,
                     hn::Mul(hn::Set(d, static_cast<T>(rule.beta1)), hn::LoadU(d, m + i)));
      const auto square =
          hn::MulAdd(hn::Mul(hn::Set(d, static_cast<T>(1 - rule.beta2)), gradient), gradient,
                     hn::Mul(hn::Set(d, static_cast<T>(rule.beta2)), hn::LoadU(d, v + i)));
      const auto scale = hn::MulAdd(hn::Sqrt(square), hn::Set(d, correction),
                                    hn::Set(d, static_cast<T>(rule.epsilon)));
      hn::StoreU(mean, d, m + i);
      hn::StoreU(square, d, v + i);
      hn::StoreU(hn::NegMulAdd(hn::Set(d, rate), hn::Div(mean, scale), hn::LoadU(d, p + i)), d,
                 p + i);
    });
  });
}

#define SIDECHANNEL_INSTANTIATE(T)                                                                \
  template void adam_begin(CpuQueue&, const AdamRule&, const double*, const T*, AdamState*);      \
  template void adam_update(CpuQueue&, const AdamRule&, const AdamState*, std::int64_t, const T*, \
                            T*, T*, T*);
SIDECHANNEL_INSTANTIATE(float)
SIDECHANNEL_INSTANTIATE(double)
#undef SIDECHANNEL_INSTANTIATE

}  // namespace sidechannel::kernels
