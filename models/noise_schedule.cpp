#include "models/noise_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/error.h"

namespace sidechannel {

NoiseSchedule::NoiseSchedule(std::int64_t steps) {
  SC_CHECK(steps >= 1, "noise schedule: expected at least 1 step, got {}", steps);
  constexpr double kOffset = 0.008, kMostBeta = 0.999;
  // Theirs is sampled at steps + 1 points from 0 to steps + 1, the last one included.
  const auto curve = [&](std::int64_t point) {
    const double at = static_cast<double>(point) / static_cast<double>(steps);
    const double c = std::cos((at + kOffset) / (1 + kOffset) * std::numbers::pi / 2);
    return c * c;
  };
  double before = 1;  // the product of 1 - beta up to the step before
  for (std::int64_t t = 0; t < steps; ++t) {
    const double beta = std::min(1 - curve(t + 1) / curve(t), kMostBeta);
    const double product = before * (1 - beta);
    signal.push_back(std::sqrt(product));
    noise.push_back(std::sqrt(1 - product));
    of_start.push_back(beta * std::sqrt(before) / (1 - product));
    of_sample.push_back((1 - before) * std::sqrt(1 - beta) / (1 - product));
    deviation.push_back(std::sqrt(beta * (1 - before) / (1 - product)));
    before = product;
  }
}

}  // namespace sidechannel
