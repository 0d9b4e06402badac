#pragma once

// Copies from global to shared memory that run in the background (cp.async, sm_80 and later). Older
// GPUs copy on the spot: the same results, without the overlap.

#include <cuda_runtime.h>

#if defined(CUDA_EMULATION)
#include "emu/ptx.h"
#endif

namespace sidechannel::kernels::device {

// Begins to copy four floats; writes zeros instead, and does not read, where `inside` is false.
// Both addresses are 16-byte aligned. The thread that copied may read its copy after
// copy_async_wait, the other threads after a barrier that follows.
__device__ __forceinline__ void copy_async(float* shared, const float* global, bool inside) {
#if defined(CUDA_EMULATION)
  emu::cp_async(shared, global, 16, inside ? 16u : 0u);
#elif __CUDA_ARCH__ >= 800
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
__device__ __forceinline__ void copy_async_commit() {
#if defined(CUDA_EMULATION)
  emu::cp_async_commit();
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the newest kPending groups of this thread are still under way.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
#if defined(CUDA_EMULATION)
  emu::cp_async_wait(kPending);
#elif __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// The same for a number that the compiler does not know.
template <int kMost>
__device__ __forceinline__ void copy_async_wait(int pending) {
  if constexpr (kMost > 0) {
    if (pending < kMost) return copy_async_wait<kMost - 1>(pending);
  }
  copy_async_wait<kMost>();
}

}  // namespace sidechannel::kernels::device
