#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

namespace sidechannel::bench {

// Times of the same work, in seconds.
struct Samples {
  std::vector<double> seconds;

  double quantile(double q) const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[static_cast<std::size_t>(q * static_cast<double>(sorted.size() - 1) + 0.5)];
  }
  double median() const { return quantile(0.5); }
  double min() const { return quantile(0); }
  // The middle 80 % of the samples, as a share of the median.
  double spread() const { return (quantile(0.9) - quantile(0.1)) / median(); }
};

// `count` times what `measure` returns.
template <class Measure>
Samples sample(int count, const Measure& measure) {
  Samples samples;
  for (int i = 0; i < count; ++i) samples.seconds.push_back(measure());
  return samples;
}

}  // namespace sidechannel::bench
