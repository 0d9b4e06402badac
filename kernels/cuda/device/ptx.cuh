#pragma once

// PTX instructions that CUDA C++ has no word for: all inline assembly, and every look at
// __CUDA_ARCH__, stands here, in functions that are named like their instructions. The emulated
// build has a header of the same name and functions in tests/emulator/shadow/, which comes first
// there.

#include <cuda_runtime.h>

#include <cstdint>

namespace sidechannel::kernels::device::ptx {

// --- Copies from global to shared memory in the background ---------------------------------------
//
// From sm_80 on. Older GPUs copy on the spot: the same results, without the overlap.

// Begins to copy 16 bytes; writes zeros instead, and does not read, where `inside` is false. Both
// addresses are 16-byte aligned. The thread that copied may read its copy after
// cp_async_wait_group, the other threads after a barrier that follows.
__device__ __forceinline__ void cp_async(float* shared, const float* global, bool inside) {
#if __CUDA_ARCH__ >= 800
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(inside ? 16u : 0u)
               : "memory");
#else
  *reinterpret_cast<float4*>(shared) =
      inside ? *reinterpret_cast<const float4*>(global) : make_float4(0, 0, 0, 0);
#endif
}

// Ends a group of copies: all that this thread began since the last call.
__device__ __forceinline__ void cp_async_commit_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the newest kPending groups of this thread are still under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// --- Barriers ---

// A barrier of all kThreads threads of a block, whole warps, which may reach it from different
// places of the kernel.
template <int kThreads>
__device__ __forceinline__ void bar_sync() {
  asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
}

// --- The order of launches -----------------------------------------------------------------------
//
// From sm_90 on; where launches do not overlap, nothing.

// Waits until all launches that this one depends on are done, and their memory is settled.
__device__ __forceinline__ void griddepcontrol_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the launches that depend on this one begin, as soon as there is room.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// --- Tensor cores --------------------------------------------------------------------------------
//
// From sm_80 on. Kernels that need them are not chosen on older GPUs, and trap there.

// The bits of x rounded to TF32: 10 bits of mantissa, to nearest, ties away from zero.
__device__ __forceinline__ std::uint32_t cvt_rna_tf32(float x) {
#if __CUDA_ARCH__ >= 800
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#else
  __trap();
  return __float_as_uint(x);
#endif
}

// d [16 x 8] += a [16 x 8] * b [8 x 8] by the 32 lanes of a warp, which hold of each what
// device/mma.cuh says.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

}  // namespace sidechannel::kernels::device::ptx
