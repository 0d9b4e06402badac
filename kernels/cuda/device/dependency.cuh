#pragma once

// What orders launches that overlap (CudaQueue::overlaps).

#include "kernels/cuda/device/ptx.cuh"

namespace sidechannel::kernels::device {

// Every kernel begins with this. Where launches overlap, blocks of a launch may begin while earlier
// launches still run: here they wait until all memory that these read or wrote is settled. Then the
// next launch's blocks may begin, which wait here for all of this one. So whatever a kernel reads
// or writes, it does after every launch before, as without overlap; what is gained is that its
// blocks are there already.
__device__ __forceinline__ void after_earlier_launches() {
  ptx::griddepcontrol_wait();
  ptx::griddepcontrol_launch_dependents();
}

// Or with this: begin() runs beside earlier launches, and touches only what was settled when the
// launch before this one began.
template <class Begin>
__device__ __forceinline__ void after_earlier_launches(const Begin& begin) {
  begin();
  after_earlier_launches();
}

}  // namespace sidechannel::kernels::device
