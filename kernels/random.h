#pragma once

#include <cstdint>

#include "kernels/queue.h"

namespace sidechannel::kernels {

// Which numbers of the counter-based generator (Philox4x32-10 by Random123) are drawn. There is no
// generator state: a number depends on these counters and on its place alone, so any part of a run
// can be repeated, skipped or drawn on another device, with the same bits.
struct RandomCounter {
  std::uint64_t seed;
  std::uint32_t stream;  // what the numbers are for: noise of training, of evaluation, weights, ...
  std::uint32_t step;    // of training
};

// Standard normals. out [samples, length]; sample i has the number first_sample + i.
template <class T>
void normal_fill(CpuQueue& queue, const RandomCounter& counter, std::uint32_t first_sample,
                 std::int64_t samples, std::int64_t length, T* out);

// Uniform on [-bound, bound). out [size].
template <class T>
void uniform_fill(CpuQueue& queue, const RandomCounter& counter, double bound, std::int64_t size,
                  T* out);

}  // namespace sidechannel::kernels
