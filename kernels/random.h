#pragma once

#include <cstdint>

#include "kernels/queue.h"

namespace sidechannel::kernels {

// Which numbers of the counter-based generator (Philox4x32-10 by Random123) are drawn. There is no
// generator state: a number depends on these counters and on its place alone, so any part of a run
// can be repeated, skipped or drawn on another device, with the same bits.
struct RandomStream {
  std::uint64_t seed;
  std::uint32_t stream;  // what the numbers are for: noise of training, of evaluation, weights, ...
};

// The counters that move during a run. They lie in the queue's memory and are moved there, so that
// a step can be repeated without the host.
struct RandomPosition {
  std::uint32_t step = 0;  // of training
  std::uint32_t first_sample = 0;
};

// Standard normals. out [samples, length]; sample i has the number at->first_sample + i.
// `at` lies in the queue's memory.
template <class T>
void normal_fill(CpuQueue& queue, const RandomStream& random, const RandomPosition* at,
                 std::int64_t samples, std::int64_t length, T* out);
void normal_fill(CudaQueue& queue, const RandomStream& random, const RandomPosition* at,
                 std::int64_t samples, std::int64_t length, float* out);

// *at += by, counter by counter, modulo 2^32.
void random_advance(CpuQueue& queue, RandomPosition* at, const RandomPosition& by);
void random_advance(CudaQueue& queue, RandomPosition* at, const RandomPosition& by);

// Uniform on [-bound, bound), for initial values: `step` is the number of the tensor. out [size].
template <class T>
void uniform_fill(CpuQueue& queue, const RandomStream& random, std::uint32_t step, double bound,
                  std::int64_t size, T* out);
void uniform_fill(CudaQueue& queue, const RandomStream& random, std::uint32_t step, double bound,
                  std::int64_t size, float* out);

}  // namespace sidechannel::kernels
