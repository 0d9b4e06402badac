#pragma once

// Emulated, in the place of the header of this name.

#include "emu/ptx.h"

namespace sidechannel::kernels::device::ptx {

inline void cp_async(float* shared, const float* global, bool inside,
                     emu::Site site = emu::Site::here()) {
  emu::cp_async(shared, global, 16, inside ? 16u : 0u, site);
}
inline void cp_async_commit_group() {
  emu::cp_async_commit();
}
template <int kPending>
void cp_async_wait_group() {
  emu::cp_async_wait(kPending);
}

// Threads reach it from the same line of a function, if from different calls of that.
template <int kThreads>
void bar_sync(emu::Site site = emu::Site::here()) {
  __syncthreads(site);
}

// Launches run one after the other.
inline void griddepcontrol_wait() {}
inline void griddepcontrol_launch_dependents() {}

using emu::cvt_rna_tf32;
using emu::mma_m16n8k8_tf32;

}  // namespace sidechannel::kernels::device::ptx
