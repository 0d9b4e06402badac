#pragma once

// How running statistics move: the same function on every backend.

#include "kernels/norm_act.h"

namespace sidechannel::kernels {

// NormUpdateRunning for channel c, in double from one rounding to the next.
template <class T>
SC_HOST_DEVICE inline void move_running(const NormUpdateRunning<T>& call, std::int64_t c) {
  const NormDims& dims = call.dims;
  const bool average_first = dims.samples_per_set == 1;
  const std::int64_t updates = average_first ? 1 : dims.groups();
  const std::int64_t sets = average_first ? dims.groups() : 1;  // of one update
  const auto count = static_cast<double>(dims.set_size());
  const double unbiased = count / (count > 2 ? count - 1 : 1.0);

  double moving_mean = call.running_mean[c];
  double moving_variance = call.running_variance[c];
  for (std::int64_t update = 0; update < updates; ++update) {
    double mean = 0;
    double variance = 0;
    for (std::int64_t set = update * sets; set < (update + 1) * sets; ++set) {
      const std::int64_t at = set * dims.channels + c;
      const double rstd = call.statistics.rstd[at];
      const double biased = 1 / (rstd * rstd) - dims.epsilon;
      mean += static_cast<double>(call.statistics.mean[at]) + call.statistics.mean_rest[at];
      variance += biased < 0 ? 0.0 : biased;  // NaN stays NaN
    }
    moving_mean =
        (1 - call.momentum) * moving_mean + call.momentum * (mean / static_cast<double>(sets));
    moving_variance = (1 - call.momentum) * moving_variance +
                      call.momentum * (variance * unbiased / static_cast<double>(sets));
  }
  call.running_mean[c] = static_cast<T>(moving_mean);
  call.running_variance[c] = static_cast<T>(moving_variance);
}

}  // namespace sidechannel::kernels
