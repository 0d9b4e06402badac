#pragma once

// Shared memory. Kernels get at it through these two functions alone: a `__shared__` declaration
// has no meaning in the emulated build, where the blocks of a cluster run on one processor, and
// which has a header of this name in tests/emulator/shadow/.

#include <cuda_runtime.h>

namespace sidechannel::kernels::device {

// The block's only T, uninitialized: of a size that is known when compiling, 48 KiB at most in
// total. Two calls with the same T give the same memory, so each kernel (and each helper) has a
// struct of its own.
template <class T>
__device__ __forceinline__ T& static_shared() {
  __shared__ T storage;
  return storage;
}

// What the launch asked for as Launch::dynamic_shared, uninitialized, 128-byte aligned.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char sidechannel_dynamic_shared[];
  return reinterpret_cast<T*>(sidechannel_dynamic_shared);
}

}  // namespace sidechannel::kernels::device
