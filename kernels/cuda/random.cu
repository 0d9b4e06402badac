// Noise by Philox4x32-10: thread t draws block t % blocks of four numbers of sample t / blocks, and
// stores them at once where it can; of whole numbers, thread t draws the one of sample t. Its
// counter says all about a number (kernels/normal.h), so every device draws the same bits; for
// that, this file is compiled without contraction (-fmad=false).

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

__global__ void fill_normals(NormalFill<float> call, bool packed) {
  device::after_earlier_launches();
  const std::int64_t blocks = (call.length + 3) / 4;
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= call.samples * blocks) return;
  const std::int64_t sample = i / blocks;
  const std::int64_t position = i % blocks * 4;
  std::uint32_t words[4];
  philox(call.random.seed, call.random.stream, call.at->step,
         call.at->first_sample + static_cast<std::uint32_t>(sample),
         static_cast<std::uint32_t>(position / 4), words);
  device::Pack<4> values;
  normals(words, values.v);
  float* to = call.out + sample * call.length + position;
  if (packed) {
    values.store(to);
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (position + j < call.length) to[j] = values.v[j];
  }
}

__global__ void fill_integers(IntegerFill<float> call) {
  device::after_earlier_launches();
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= call.samples) return;
  std::uint32_t words[4];
  philox(call.random.seed, call.random.stream, call.at->step,
         call.at->first_sample + static_cast<std::uint32_t>(i), 0, words);
  call.out[i] = static_cast<float>(below(call.count, words));
}

__global__ void advance(RandomAdvance call) {
  device::after_earlier_launches();
  call.at->step += call.by.step;
  call.at->first_sample += call.by.first_sample;
}

__global__ void fill_uniforms(UniformFill<float> call) {
  device::after_earlier_launches();
  const std::int64_t block = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (block * 4 >= call.size) return;
  std::uint32_t words[4];
  philox(call.random.seed, call.random.stream, call.step, 0, static_cast<std::uint32_t>(block),
         words);
  const auto bound = static_cast<float>(call.bound);
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    if (block * 4 + j < call.size) call.out[block * 4 + j] = uniform(words[j]) * bound;
  }
}

// For that many threads.
Launch enough(std::int64_t threads) {
  return {Grid{ceil_div(threads, kThreads)}, dim3(kThreads)};
}

}  // namespace

void run(CudaQueue& queue, const NormalFill<float>& call) {
  const std::int64_t threads = call.samples * ((call.length + 3) / 4);
  if (threads == 0) return;
  launch(queue, "normal_fill", fill_normals, enough(threads), call,
         call.length % 4 == 0 && packable({call.out}));
}

void run(CudaQueue& queue, const IntegerFill<float>& call) {
  launch(queue, "integer_fill", fill_integers, enough(call.samples), call);
}

void run(CudaQueue& queue, const RandomAdvance& call) {
  launch(queue, "random_advance", advance, Launch{1, 1}, call);
}

void run(CudaQueue& queue, const UniformFill<float>& call) {
  if (call.size == 0) return;
  launch(queue, "uniform_fill", fill_uniforms, enough((call.size + 3) / 4), call);
}

}  // namespace sidechannel::kernels
