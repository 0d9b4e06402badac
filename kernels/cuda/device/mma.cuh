#pragma once

// Matrix products on tensor cores: TF32 operands, fp32 sums (mma.sync, sm_80 and later); and of
// fp32 operands, as sums of two TF32 numbers.

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cuda/device/ptx.cuh"

namespace sidechannel::kernels::device {

// x rounded to TF32: 10 bits of mantissa, to nearest, ties away from zero. Relative error <= 2^-11.
__device__ __forceinline__ float to_tf32(float x) {
  return __uint_as_float(ptx::cvt_rna_tf32(x));
}

__device__ __forceinline__ float4 to_tf32(float4 x) {
  return make_float4(to_tf32(x.x), to_tf32(x.y), to_tf32(x.z), to_tf32(x.w));
}

// What to_tf32 leaves of x, rounded to TF32 too: x = big + small, but for 2^-23 |x| at most. What
// is not finite, or becomes infinite by rounding (from 2^128 - 2^116 on), leaves NaN.
__device__ __forceinline__ float4 small_of_tf32(float4 x, float4 big) {
  return to_tf32(make_float4(x.x - big.x, x.y - big.y, x.z - big.z, x.w - big.w));
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
  const std::uint32_t a[4] = {__float_as_uint(a0), __float_as_uint(a1), __float_as_uint(a2),
                              __float_as_uint(a3)};
  const std::uint32_t b[2] = {__float_as_uint(b0), __float_as_uint(b1)};
  ptx::mma_m16n8k8_tf32(sum, a, b);
}

// The same, with the lane's four left operands in one.
__device__ __forceinline__ void mma_tf32(float (&sum)[4], const float4& left, float b0, float b1) {
  mma_tf32(sum, left.x, left.y, left.z, left.w, b0, b1);
}

}  // namespace sidechannel::kernels::device
