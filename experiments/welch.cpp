#include "experiments/welch.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <limits>

namespace sidechannel::experiments {
namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();
constexpr double kRounding = 1.0 / (1 << 20);  // some units in the last place of an f32

// A variance of no more than the rounding of f32 predictions around their mean is none.
double real_variance(const SampleMoments& m) {
  const double rounding = kRounding * m.mean;
  return m.variance > rounding * rounding ? m.variance : 0;
}

}  // namespace

double welch_p_value(const SampleMoments& a, const SampleMoments& b) {
  for (const SampleMoments* m : {&a, &b}) {
    if (!std::isfinite(m->mean) || !std::isfinite(m->variance) || m->count < 2) return kUndefined;
  }
  const double error_a = real_variance(a) / a.count;
  const double error_b = real_variance(b) / b.count;
  const double error = error_a + error_b;
  const double difference = std::abs(a.mean - b.mean);
  if (!std::isfinite(error)) return kUndefined;
  if (error == 0) {
    const double scale = std::max(std::abs(a.mean), std::abs(b.mean));
    return difference <= kRounding * scale ? kUndefined : 0;  // 0 / 0 and d / 0
  }
  const double t = difference / std::sqrt(error);
  // Welch & Satterthwaite's degrees of freedom, (e_a + e_b)^2 / (e_a^2 / (n_a - 1) + e_b^2 / (n_b -
  // 1)), of parts of the error: their squares neither overflow nor vanish.
  const double part_a = error_a / error, part_b = error_b / error;
  const double freedom = 1 / (part_a * part_a / (a.count - 1) + part_b * part_b / (b.count - 1));
  const boost::math::students_t distribution(freedom);
  return 2 * boost::math::cdf(boost::math::complement(distribution, t));
}

std::vector<double> largest_p_values(std::span<const SampleMoments> moments) {
  std::vector<double> largest(moments.size(), 0);
  for (std::size_t i = 0; i < moments.size(); ++i) {
    for (std::size_t j = i + 1; j < moments.size(); ++j) {
      const double p = welch_p_value(moments[i], moments[j]);
      for (double* const most : {&largest[i], &largest[j]}) {
        if (!(p <= *most)) *most = std::isnan(*most) ? *most : p;  // a NaN stays
      }
    }
  }
  return largest;
}

}  // namespace sidechannel::experiments
