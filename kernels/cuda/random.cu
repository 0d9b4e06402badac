// Noise by Philox4x32-10: thread t draws block t % blocks of four numbers of sample t / blocks, and
// stores them at once where it can. Its counter says all about a number (kernels/normal.h), so
// every device draws the same bits; for that, this file is compiled without contraction
// (-fmad=false).

#include "kernels/random.h"

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device/pack.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"
#include "kernels/cuda/tiling.h"
#include "kernels/normal.h"

namespace sidechannel::kernels {
namespace {

constexpr unsigned kThreads = 256;

// out [samples, length].
__global__ void fill_normals(RandomStream random, const RandomPosition* at, std::int64_t samples,
                             std::int64_t length, bool packed, float* out) {
  const std::int64_t blocks = (length + 3) / 4;
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= samples * blocks) return;
  const std::int64_t sample = i / blocks;
  const std::int64_t position = i % blocks * 4;
  std::uint32_t words[4];
  philox(random.seed, random.stream, at->step,
         at->first_sample + static_cast<std::uint32_t>(sample),
         static_cast<std::uint32_t>(position / 4), words);
  device::Pack<4> values;
  normals(words, values.v);
  float* to = out + sample * length + position;
  if (packed) {
    values.store(to);
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (position + j < length) to[j] = values.v[j];
  }
}

__global__ void advance(RandomPosition* at, RandomPosition by) {
  at->step += by.step;
  at->first_sample += by.first_sample;
}

__global__ void fill_uniforms(RandomStream random, std::uint32_t step, float bound,
                              std::int64_t size, float* out) {
  const std::int64_t block = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (block * 4 >= size) return;
  std::uint32_t words[4];
  philox(random.seed, random.stream, step, 0, static_cast<std::uint32_t>(block), words);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (block * 4 + j < size) out[block * 4 + j] = uniform(words[j]) * bound;
  }
}

// For that many threads.
Launch enough(std::int64_t threads) {
  return {Grid{ceil_div(threads, kThreads)}, dim3(kThreads)};
}

}  // namespace

void normal_fill(CudaQueue& queue, const RandomStream& random, const RandomPosition* at,
                 std::int64_t samples, std::int64_t length, float* out) {
  const std::int64_t threads = samples * ((length + 3) / 4);
  if (threads == 0) return;
  launch(queue, "normal_fill", fill_normals, enough(threads), random, at, samples, length,
         length % 4 == 0 && packable({out}), out);
}

void random_advance(CudaQueue& queue, RandomPosition* at, const RandomPosition& by) {
  launch(queue, "random_advance", advance, Launch{1, 1}, at, by);
}

void uniform_fill(CudaQueue& queue, const RandomStream& random, std::uint32_t step, double bound,
                  std::int64_t size, float* out) {
  if (size == 0) return;
  launch(queue, "uniform_fill", fill_uniforms, enough((size + 3) / 4), random, step,
         static_cast<float>(bound), size, out);
}

}  // namespace sidechannel::kernels
