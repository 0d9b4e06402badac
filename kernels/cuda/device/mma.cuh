#pragma once

// Matrix products on tensor cores: TF32 operands, fp32 sums (mma.sync, sm_80 and later).

#include <cuda_runtime.h>

#include <cstdint>

#if defined(CUDA_EMULATION)
#include "emu/ptx.h"
#endif

namespace sidechannel::kernels::device {

// x rounded to TF32: 10 bits of mantissa, to nearest, ties away from zero. Relative error <= 2^-11.
__device__ __forceinline__ float to_tf32(float x) {
#if defined(CUDA_EMULATION)
  return __uint_as_float(emu::cvt_rna_tf32(x));
#elif __CUDA_ARCH__ >= 800
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
#else
  return x;  // never reached: kernels that round are not chosen on these GPUs
#endif
}

__device__ __forceinline__ float4 to_tf32(float4 x) {
  return make_float4(to_tf32(x.x), to_tf32(x.y), to_tf32(x.z), to_tf32(x.w));
}

// x rounded to TF32, to nearest, ties to even: one instruction, of sm_90. For rounding where
// operands are read, again and again; away from zero takes three.
__device__ __forceinline__ float to_even_tf32(float x) {
#if defined(CUDA_EMULATION)
  return __uint_as_float(emu::cvt_rn_tf32(x));
#elif __CUDA_ARCH__ >= 900
  std::uint32_t bits;
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
#else
  return x;  // never reached: kernels that round so are not chosen on these GPUs
#endif
}

// The same, into a register of its own each time: instead of copies where one number is an operand
// of several products.
__device__ __forceinline__ float to_even_tf32_again(float x) {
#if !defined(CUDA_EMULATION) && __CUDA_ARCH__ >= 900
  std::uint32_t bits;
  asm volatile("cvt.rn.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
#else
  return to_even_tf32(x);
#endif
}

// sum [16 x 8] += a [16 x 8] * b [8 x 8] by the 32 lanes of a warp. The operands are rounded
// already.
//
// With g = lane / 4 and t = lane % 4, a lane holds (row, column)
//
//   of a:    a0 (g, t)   a1 (g + 8, t)   a2 (g, t + 4)   a3 (g + 8, t + 4)
//   of b:    b0 (t, g)   b1 (t + 4, g)
//   of sum:  sum[0] (g, 2t)   sum[1] (g, 2t + 1)   sum[2] (g + 8, 2t)   sum[3] (g + 8, 2t + 1)
__device__ __forceinline__ void mma_tf32(float (&sum)[4], float a0, float a1, float a2, float a3,
                                         float b0, float b1) {
#if defined(CUDA_EMULATION)
  const std::uint32_t a[4] = {__float_as_uint(a0), __float_as_uint(a1), __float_as_uint(a2),
                              __float_as_uint(a3)};
  const std::uint32_t b[2] = {__float_as_uint(b0), __float_as_uint(b1)};
  emu::mma_m16n8k8_tf32(sum, a, b);
#elif __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)),
        "r"(__float_as_uint(a3)), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
#else
  __trap();  // no tensor cores for TF32: chosen by mistake
#endif
}

}  // namespace sidechannel::kernels::device
