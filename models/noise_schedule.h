#pragma once

#include <cstdint>
#include <vector>

namespace sidechannel {

// How a denoising diffusion (Ho et al. 2020) of T steps takes a sample x_0 apart, with e standard
// normal,
//
//   x_t = signal[t] x_0 + noise[t] e,  t = 0 .. T - 1
//
// and how its sampler puts one together, from x_0 as a network sees it in x_t:
//
//   x_{t-1} = of_start[t] x_0 + of_sample[t] x_t + deviation[t] e
//
// The cosine schedule (Nichol and Dhariwal 2021, s = 0.008, beta at most 0.999) as jannerm/diffuser
// has it, in double.
struct NoiseSchedule {
  explicit NoiseSchedule(std::int64_t steps);

  std::int64_t steps() const { return static_cast<std::int64_t>(signal.size()); }

  std::vector<double> signal, noise;
  std::vector<double> of_start, of_sample, deviation;  // deviation[0] = 0
};

}  // namespace sidechannel
