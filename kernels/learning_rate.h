#pragma once

#include <cstdint>

#include "kernels/host_device.h"

namespace sidechannel::kernels {

// How the learning rate moves over a training: known to the device that trains, so that a step
// needs no number from the host.
struct LearningRate {
  enum class Schedule : unsigned char {
    kConstant,
    kTail,  // constant for 70 % of the steps, then linear down to 5 %
  };
  double base = 1e-3;
  Schedule schedule = Schedule::kConstant;
  std::int64_t warmup = 0;  // steps of linear warm-up from zero
  std::int64_t steps = 1;   // of the whole training: where the tail ends

  // The rate of `step`, counted from 0.
  SC_HOST_DEVICE double at(std::int64_t step) const {
    const auto done = static_cast<double>(step + 1);
    const double warm = step + 1 < warmup ? done / static_cast<double>(warmup) : 1.0;
    if (schedule == Schedule::kConstant) return base * warm;
    const double flat = 0.7;
    const double end = 0.05;
    const double progress = done / static_cast<double>(steps);
    if (progress <= flat) return base * warm;
    return base * (warm * (end + (1 - end) * (1 - progress) / (1 - flat)));
  }
};

}  // namespace sidechannel::kernels
