#include "kernels/random.h"

#include <algorithm>

#include "kernels/normal.h"

namespace sidechannel::kernels {

template <class T>
void normal_fill(CpuQueue& queue, const RandomStream& random, const RandomPosition* at,
                 std::int64_t samples, std::int64_t length, T* out) {
  const std::int64_t blocks = (length + 3) / 4;
  const RandomPosition first = *at;
  queue.parallel_for(samples * blocks, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t sample = i / blocks;
      const std::int64_t position = i % blocks * 4;
      std::uint32_t words[4];
      float values[4];
      philox(random.seed, random.stream, first.step,
             first.first_sample + static_cast<std::uint32_t>(sample),
             static_cast<std::uint32_t>(position / 4), words);
      normals(words, values);
      std::copy_n(values, std::min<std::int64_t>(4, length - position),
                  out + sample * length + position);
    }
  });
}

void random_advance(CpuQueue&, RandomPosition* at, const RandomPosition& by) {
  at->step += by.step;
  at->first_sample += by.first_sample;
}

template <class T>
void uniform_fill(CpuQueue& queue, const RandomStream& random, std::uint32_t step, double bound,
                  std::int64_t size, T* out) {
  const auto scale = static_cast<float>(bound);
  queue.parallel_for((size + 3) / 4, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      std::uint32_t words[4];
      philox(random.seed, random.stream, step, 0, static_cast<std::uint32_t>(block), words);
      for (std::int64_t i = 0; i < std::min<std::int64_t>(4, size - block * 4); ++i) {
        out[block * 4 + i] = static_cast<T>(uniform(words[i]) * scale);
      }
    }
  });
}

#define SIDECHANNEL_INSTANTIATE(T)                                                                \
  template void normal_fill(CpuQueue&, const RandomStream&, const RandomPosition*, std::int64_t,  \
                            std::int64_t, T*);                                                    \
  template void uniform_fill(CpuQueue&, const RandomStream&, std::uint32_t, double, std::int64_t, \
                             T*);
SIDECHANNEL_INSTANTIATE(float)
SIDECHANNEL_INSTANTIATE(double)
#undef SIDECHANNEL_INSTANTIATE

}  // namespace sidechannel::kernels
