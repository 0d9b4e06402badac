#pragma once

#include <functional>

#include "engine/device.h"

namespace sidechannel {

// Runs a step that repeats itself. A body launches the same operations on the same memory every
// time, and what changes from step to step (counters, rates, averages) changes on the device: its
// launches may then be recorded once and repeated as one, without running its host code again. So a
// body depends on no value of the host that changes, and reads nothing back.
//
// On a GPU the first two calls run as they are (after the first, arena and scratch memory know how
// large they must be, after the second they have stopped moving), the third is recorded as a CUDA
// graph, and from then on a step is one launch. With CUDA_LAUNCH_BLOCKING=1 nothing is recorded, so
// that a fault names its operation; nor with SIDECHANNEL_REPLAY=off when this is made, so that what
// recording gains can be measured.
class Replay {
 public:
  explicit Replay(Device device);

  // The next step; `body` must be the same one every time.
  void operator()(const std::function<void()>& body);

 private:
  Device device_;
  bool recorded_ = false;
  std::int64_t runs_ = 0;
  kernels::CudaGraph graph_;
};

}  // namespace sidechannel
