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

// Standard normals; sample i has the number at->first_sample + i.
template <class T>
struct NormalFill {
  RandomStream random;
  const RandomPosition* at = nullptr;  // in the queue's memory
  std::int64_t samples = 0;
  std::int64_t length = 0;
  T* out = nullptr;  // [samples, length]
};
template <class T>
void run(CpuQueue& queue, const NormalFill<T>& call);
void run(CudaQueue& queue, const NormalFill<float>& call);

// Uniform on {0, 1, ..., count - 1}, held as T; sample i has the number at->first_sample + i. Each
// has a probability that is off from 1 / count by at most 2^-64 (below() in normal.h). A stream of
// normals is not to be drawn from, too: a sample's first numbers are made of the same words.
template <class T>
struct IntegerFill {
  RandomStream random;
  const RandomPosition* at = nullptr;  // in the queue's memory
  std::int64_t samples = 0;
  std::uint32_t count = 1;  // 1 to 2^24
  T* out = nullptr;         // [samples]
};
template <class T>
void run(CpuQueue& queue, const IntegerFill<T>& call);
void run(CudaQueue& queue, const IntegerFill<float>& call);

// *at += by, counter by counter, modulo 2^32.
struct RandomAdvance {
  RandomPosition* at = nullptr;
  RandomPosition by;
};
void run(CpuQueue& queue, const RandomAdvance& call);
void run(CudaQueue& queue, const RandomAdvance& call);

// Uniform on [-bound, bound), for initial values.
template <class T>
struct UniformFill {
  RandomStream random;
  std::uint32_t step = 0;  // the number of the tensor
  double bound = 0;
  std::int64_t size = 0;
  T* out = nullptr;  // [size]
};
template <class T>
void run(CpuQueue& queue, const UniformFill<T>& call);
void run(CudaQueue& queue, const UniformFill<float>& call);

}  // namespace sidechannel::kernels
