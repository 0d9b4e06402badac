#pragma once

// What the PTX instructions do that kernels/cuda/device/ wraps.

#include "emu/device.h"

namespace emu {

// cvt.rna.tf32.f32: to the nearest number of 10 bits of mantissa, ties away from zero.
std::uint32_t cvt_rna_tf32(float x);

// mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32: D (16 x 8) += A (16 x 8) B (8 x 8). With g =
// lane / 4 and t = lane % 4, a lane holds
//
//   a: A[g][t], A[g + 8][t], A[g][t + 4], A[g + 8][t + 4]      b: B[t][g], B[t + 4][g]
//   d: D[g][2t], D[g][2t + 1], D[g + 8][2t], D[g + 8][2t + 1]
//
// Operands that were not rounded to TF32 are an error: the hardware would cut them off. So it does
// with sums, and so they are here.
void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                      Site site = Site::here());

// cp.async of 4, 8 or 16 bytes from global to shared memory; the bytes behind `source_bytes` are
// filled with zeros. The destination is poisoned until the thread has waited for it.
void cp_async(void* shared, const void* global, unsigned bytes, unsigned source_bytes,
              Site site = Site::here());
void cp_async_commit();
void cp_async_wait(unsigned pending_groups);

}  // namespace emu
