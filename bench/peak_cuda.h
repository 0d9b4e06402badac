#pragma once

#include "kernels/cuda_queue.h"

namespace sidechannel::bench {

// What a GPU can do at most, as measured now, after it has come up to its clock.
struct CudaPeaks {
  double ffma = 0;  // FLOP/s of fp32 fused multiply-adds
  double tf32 = 0;  // FLOP/s of mma.sync m16n8k8 in TF32; 0 where there is none
  double copy = 0;  // bytes/s of copies within device memory, bytes read and bytes written added
  // Seconds, of kernels that do nothing:
  double launch = 0;              // to launch one after the other, each
  double launch_and_wait = 0;     // from the launch of one until the host knows that it is done
  double replay_and_wait = 0;     // the same for a recorded step of one launch
  double recorded_launch = 0;     // of a recorded step of many, each
  double between_two_events = 0;  // what events around one measure
};

CudaPeaks cuda_peaks(kernels::CudaQueue& queue);

}  // namespace sidechannel::bench
