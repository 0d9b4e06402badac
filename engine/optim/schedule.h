#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "engine/error.h"

namespace sidechannel {

// How the learning rate moves over training, as a factor on its base value.
struct Schedule {
  enum class Kind {
    kConstant,
    kTail,  // constant for 70 % of the steps, then linear down to 5 %
  };
  Kind kind = Kind::kConstant;
  std::int64_t warmup = 0;  // steps of linear warm-up from zero

  // The factor for `step`, counted from 0, of `steps`.
  double factor(std::int64_t step, std::int64_t steps) const {
    const auto done = static_cast<double>(step + 1);
    const double warm = warmup > 0 ? std::min(1.0, done / static_cast<double>(warmup)) : 1.0;
    if (kind == Kind::kConstant) return warm;
    constexpr double kFlat = 0.7;
    constexpr double kEnd = 0.05;
    const double progress = done / static_cast<double>(steps);
    if (progress <= kFlat) return warm;
    return warm * (kEnd + (1 - kEnd) * (1 - progress) / (1 - kFlat));
  }

  static Kind kind_from(const std::string& name) {
    if (name == "constant") return Kind::kConstant;
    if (name == "tail") return Kind::kTail;
    throw UsageError(fmt::format("schedule {}: expected constant or tail", name));
  }
};

}  // namespace sidechannel
