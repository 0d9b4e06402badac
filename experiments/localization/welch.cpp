#include "experiments/localization/welch.h"

#include <algorithm>
#include <boost/math/distributions/students_t.hpp>
#include <cmath>
#include <functional>
#include <limits>
#include <map>

namespace sidechannel::experiments {
namespace {

constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();
constexpr double kRounding = 1.0 / (1 << 20);  // some units in the last place of an f32

// A variance of no more than the rounding of f32 predictions around their mean is none.
double real_variance(const SampleMoments& m) {
  const double rounding = kRounding * m.mean;
  return m.variance > rounding * rounding ? m.variance : 0;
}

// Nothing can be tested with other moments.
bool usable(const SampleMoments& m) {
  return std::isfinite(m.mean) && std::isfinite(m.variance) && m.count >= 2;
}

// The squared error of the mean.
double error_of(const SampleMoments& m) {
  return real_variance(m) / m.count;
}

double two_sided(double t, double freedom) {
  const boost::math::students_t distribution(freedom);
  return 2 * boost::math::cdf(boost::math::complement(distribution, t));
}

// Indices whose squared errors of the mean differ by a factor of 4 at most, or have none.
struct ErrorClass {
  double least = std::numeric_limits<double>::infinity();
  double most = 0;
  std::vector<std::size_t> by_mean;
};

// No test of an index with this error against one of a class has fewer degrees of freedom: they
// are (n - 1) / (a^2 + b^2) for parts a + b = 1 of the error, and least at one end of what a can
// be.
double fewest_degrees(double error, const ErrorClass& other, double least_count) {
  const auto sum = [&](double other_error) {
    const double a = error / (error + other_error), b = other_error / (error + other_error);
    return a * a + b * b;
  };
  return (least_count - 1) / std::max(sum(other.least), sum(other.most));
}

// Whether no test with at least `freedom` degrees of freedom and a statistic of at least `t` has a
// p-value above `p`, as they are computed. The margins are for what the computed values are off by:
// some 1e-11 of them, 1e-10 where there is one degree of freedom.
bool stays_below(double p, double t, double freedom) {
  constexpr double kOff = 1e-9;
  constexpr double kTiny = 1e-290;
  t *= 1 - kOff;
  freedom *= 1 - kOff;
  // From here on they may vanish, each where its own way of computing it does: far enough for 20
  // orders of magnitude in a tail that falls as t^-freedom.
  if (p < kTiny) t /= std::max(2.0, std::pow(10.0, 20 / freedom));
  return two_sided(t, freedom) * (1 + kOff) <= p;
}

}  // namespace

double welch_p_value(const SampleMoments& a, const SampleMoments& b) {
  if (!usable(a) || !usable(b)) return kUndefined;
  const double error_a = error_of(a);
  const double error_b = error_of(b);
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
  return two_sided(t, freedom);
}

// An index's rivals are looked at class by class, outward from its mean, until none further out in
// that class can have a larger p-value than the largest so far: t grows with the distance, and is
// at least the distance over the error that the class allows. So few pairs are tested.
std::vector<double> largest_p_values(std::span<const SampleMoments> moments) {
  const std::size_t size = moments.size();
  std::vector<double> largest(size, 0);
  if (size < 2) return largest;
  if (!std::ranges::all_of(moments, usable)) return std::vector<double>(size, kUndefined);

  std::vector<double> errors;
  std::map<int, ErrorClass, std::greater<>> classes;  // who errs most is told apart least
  double least_count = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < size; ++i) {
    const double error = error_of(moments[i]);
    errors.push_back(error);
    const int exponent = error > 0 ? std::ilogb(error) >> 1 : std::numeric_limits<int>::min();
    ErrorClass& of = classes[exponent];
    of.least = std::min(of.least, error);
    of.most = std::max(of.most, error);
    of.by_mean.push_back(i);
    least_count = std::min(least_count, moments[i].count);
  }
  const auto mean_of = [&](std::size_t i) { return moments[i].mean; };
  for (auto& [exponent, of] : classes) std::ranges::sort(of.by_mean, {}, mean_of);

  const auto test = [&](std::size_t i, std::size_t j) {
    if (i == j) return;
    const double p = welch_p_value(moments[i], moments[j]);
    for (double* const most : {&largest[i], &largest[j]}) {
      if (!(p <= *most)) *most = std::isnan(*most) ? *most : p;  // a NaN stays
    }
  };
  // Two without any error: undefined where their means are equal, which neighbours are if any two
  // are, and else 0.
  if (const ErrorClass& last = classes.rbegin()->second; last.most == 0) {
    for (std::size_t k = 1; k < last.by_mean.size(); ++k) {
      test(last.by_mean[k - 1], last.by_mean[k]);
    }
  }

  for (std::size_t i = 0; i < size; ++i) {
    for (const auto& [exponent, rivals] : classes) {
      if (std::isnan(largest[i])) break;
      if (errors[i] == 0 && rivals.most == 0) continue;
      const double error = std::sqrt(errors[i] + rivals.most);
      const double freedom = fewest_degrees(errors[i], rivals, least_count);
      const std::vector<std::size_t>& by_mean = rivals.by_mean;
      const auto ties = std::ranges::lower_bound(by_mean, moments[i].mean, {}, mean_of);
      const auto above = std::ranges::upper_bound(by_mean, moments[i].mean, {}, mean_of);
      for (auto j = ties; j != above && largest[i] < 1; ++j) test(i, *j);  // p = 1
      const auto nearer = [&](std::size_t j) {
        const double t = std::abs(moments[j].mean - moments[i].mean) / error;
        if (stays_below(largest[i], t, freedom)) return false;
        test(i, j);
        return true;
      };
      for (auto j = above; j != by_mean.end() && nearer(*j); ++j) {
      }
      for (auto j = ties; j != by_mean.begin() && nearer(*std::prev(j)); --j) {
      }
    }
  }
  return largest;
}

}  // namespace sidechannel::experiments
