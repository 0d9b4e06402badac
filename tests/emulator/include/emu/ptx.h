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

// --- Hopper: compute capability 9.0 and no other ---

// mbarrier: 8 bytes of shared memory. A phase is complete once that many threads have arrived and
// all bytes that they expect have been copied.
void mbarrier_init(std::uint64_t* barrier, unsigned arrivals, Site site = Site::here());
void mbarrier_arrive(std::uint64_t* barrier, unsigned expected_bytes, Site site = Site::here());
// Until the phase of that parity is complete; the first one's is 0.
void mbarrier_wait(std::uint64_t* barrier, unsigned parity, Site site = Site::here());

// cp.async.bulk from global memory to the same place of the shared memory of each of the cluster's
// `blocks` (a mask), of which each is told by its barrier.
void cp_async_bulk(void* shared, const void* global, unsigned bytes, std::uint64_t* barrier,
                   unsigned blocks, Site site = Site::here());

// What the thread wrote to shared memory may be an operand of wgmma now.
void fence_proxy_async();

// wgmma.mma_async.sync.aligned.m64nNk8.f32.tf32.tf32 of 128 threads: D (64 x N) = A (64 x 8) B (8 x
// N), + D where `add`. Descriptors of A and of B's transpose, no swizzle: bits 0 to 13 the address,
// 16 to 29 the distance of four numbers along k, 32 to 45 that of eight rows, in units of 16 bytes.
// With g = lane / 4 and t = lane % 4, warp w of the four holds
//
//   d[4 j + 2 h + e]: D[16 w + g + 8 h][8 j + 2 t + e]
const unsigned char* own_shared();  // where addresses of the block's shared memory begin
void wgmma_fence();
void wgmma_m64k8_tf32(float* d, unsigned columns, std::uint64_t a, std::uint64_t b, bool add,
                      Site site = Site::here());
void wgmma_commit_group();
void wgmma_wait_group(unsigned pending_groups, Site site = Site::here());

}  // namespace emu
