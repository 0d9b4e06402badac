#include "kernels/random.h"

#include <algorithm>

#include "kernels/normal.h"

namespace sidechannel::kernels {

template <class T>
void run(CpuQueue& queue, const NormalFill<T>& call) {
  const std::int64_t blocks = (call.length + 3) / 4;
  const RandomPosition first = *call.at;
  queue.parallel_for(call.samples * blocks, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t sample = i / blocks;
      const std::int64_t position = i % blocks * 4;
      std::uint32_t words[4];
      float values[4];
      philox(call.random.seed, call.random.stream, first.step,
             first.first_sample + static_cast<std::uint32_t>(sample),
             static_cast<std::uint32_t>(position / 4), words);
      normals(words, values);
      std::copy_n(values, std::min<std::int64_t>(4, call.length - position),
                  call.out + sample * call.length + position);
    }
  });
}

template <class T>
void run(CpuQueue& queue, const IntegerFill<T>& call) {
  const RandomPosition first = *call.at;
  queue.parallel_for(call.samples, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::uint32_t words[4];
      philox(call.random.seed, call.random.stream, first.step,
             first.first_sample + static_cast<std::uint32_t>(i), 0, words);
      call.out[i] = static_cast<T>(below(call.count, words));
    }
  });
}

void run(CpuQueue&, const RandomAdvance& call) {
  call.at->step += call.by.step;
  call.at->first_sample += call.by.first_sample;
}

template <class T>
void run(CpuQueue& queue, const UniformFill<T>& call) {
  const auto scale = static_cast<float>(call.bound);
  queue.parallel_for((call.size + 3) / 4, 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      std::uint32_t words[4];
      philox(call.random.seed, call.random.stream, call.step, 0, static_cast<std::uint32_t>(block),
             words);
      for (std::int64_t i = 0; i < std::min<std::int64_t>(4, call.size - block * 4); ++i) {
        call.out[block * 4 + i] = static_cast<T>(uniform(words[i]) * scale);
      }
    }
  });
}

template void run(CpuQueue&, const NormalFill<float>&);
template void run(CpuQueue&, const NormalFill<double>&);
template void run(CpuQueue&, const IntegerFill<float>&);
template void run(CpuQueue&, const IntegerFill<double>&);
template void run(CpuQueue&, const UniformFill<float>&);
template void run(CpuQueue&, const UniformFill<double>&);

}  // namespace sidechannel::kernels
