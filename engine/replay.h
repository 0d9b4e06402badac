#pragma once

#include <functional>
#include <utility>

#include "engine/device.h"

namespace sidechannel {

// Runs a step that repeats itself. A body launches the same operations on the same memory every
// time, and what changes from step to step (counters, rates, averages) changes on the device: its
// launches may then be recorded once and repeated as one, without running its host code again. So a
// body depends on no value of the host that changes, and reads nothing back.
class Replay {
 public:
  explicit Replay(Device device) : device_(std::move(device)) {}

  // The next step; `body` must be the same one every time.
  void operator()(const std::function<void()>& body);

 private:
  [[maybe_unused]] Device device_;
};

}  // namespace sidechannel
