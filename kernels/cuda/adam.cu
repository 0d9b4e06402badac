// Adam over all parameters at once:
//
//   m = beta1 * m + (1 - beta1) * g        v = beta2 * v + (1 - beta2) * g^2
//   p = p - rate * m / (sqrt(v) * correction + epsilon)
//
// p, m, v, g [size], flat. Thread t takes elements 4 t to 4 t + 3, by 16 bytes where the addresses
// allow it: 16 bytes read and 12 written an element, in one pass. What depends on the step lies in
// device memory and is computed there, so that a recorded step can be replayed. Multiply-adds are
// fused by name, where the CPU's kernel has them: both give the same bits.

#include "kernels/adam.h"

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device/pack.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/sizes.h"
#include "kernels/cuda/tiling.h"

namespace sidechannel::kernels {
namespace {

using device::Pack;

// One thread.
__global__ void begin(AdamBegin<float> call) {
  device::after_earlier_launches();
  *call.state = begin_step(call.rule, *call.state, *call.sum_of_squares,
                           call.loss ? static_cast<double>(*call.loss) : 0.0, FLT_MAX);
}

struct AdamConstants {
  float beta1, one_minus_beta1, beta2, one_minus_beta2, epsilon;
};

template <int kVec>
__device__ __forceinline__ void update_pack(const AdamConstants& constants, float rate,
                                            float correction, const AdamUpdate<float>& call,
                                            std::int64_t at) {
  const auto gradient = Pack<kVec>::load(call.g + at);
  auto parameter = Pack<kVec>::load(call.p + at);
  auto mean = Pack<kVec>::load(call.m + at);
  auto square = Pack<kVec>::load(call.v + at);
#pragma unroll
  for (int j = 0; j < kVec; ++j) {
    const float gj = gradient.v[j];
    mean.v[j] = fmaf(constants.one_minus_beta1, gj, __fmul_rn(constants.beta1, mean.v[j]));
    square.v[j] =
        fmaf(__fmul_rn(constants.one_minus_beta2, gj), gj, __fmul_rn(constants.beta2, square.v[j]));
    const float scale = fmaf(sqrtf(square.v[j]), correction, constants.epsilon);
    parameter.v[j] = fmaf(-rate, mean.v[j] / scale, parameter.v[j]);
  }
  mean.store(call.m + at);
  square.store(call.v + at);
  parameter.store(call.p + at);
}

__global__ void update(AdamConstants constants, AdamUpdate<float> call, bool packed) {
  device::after_earlier_launches();
  if (call.state->halted != 0) return;
  const auto rate = static_cast<float>(call.state->rate);
  const auto correction = static_cast<float>(call.state->correction);
  const std::int64_t size = call.size;
  const std::int64_t first = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 4;
  if (packed && first + 4 <= size) {
    update_pack<4>(constants, rate, correction, call, first);
    return;
  }
  for (std::int64_t i = first; i < first + 4 && i < size; ++i) {
    update_pack<1>(constants, rate, correction, call, i);
  }
}

}  // namespace

void run(CudaQueue& queue, const AdamBegin<float>& call) {
  launch(queue, "adam_begin", begin, Launch{1, 1}, call);
}

void run(CudaQueue& queue, const AdamUpdate<float>& call) {
  if (call.size == 0) return;
  constexpr unsigned kThreads = 256;
  const std::int64_t blocks = ceil_div(call.size, 4 * kThreads);
  const AdamRule& rule = call.rule;
  const AdamConstants constants = {
      static_cast<float>(rule.beta1), static_cast<float>(1 - rule.beta1),
      static_cast<float>(rule.beta2), static_cast<float>(1 - rule.beta2),
      static_cast<float>(rule.epsilon)};
  launch(queue, "adam_update", update, Launch{blocks, kThreads}, constants, call,
         packable({call.g, call.p, call.m, call.v}));
}

}  // namespace sidechannel::kernels
