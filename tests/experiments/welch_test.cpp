#include "experiments/localization/welch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "engine/io/npy.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

// The classic example: two samples with unequal variances and sizes. Reference: SciPy's
// ttest_ind_from_stats(20.82, sqrt(2.59), 15, 23.71, sqrt(8.9), 10, equal_var=False).
TEST(Welch, UnequalVariancesAndSizes) {
  EXPECT_NEAR(welch_p_value({20.82, 2.59, 15}, {23.71, 8.9, 10}), 0.015383854654989431, 1e-13);
}

// Each row of the table: mean, variance and count of both samples, and SciPy's p-value.
TEST(Welch, AgreesWithSciPyOn20000Cases) {
  const HostArray table = read_npy(harness::test_data("golden/welch.npy"));
  ASSERT_EQ(table.shape[1], 7);
  ASSERT_GE(table.shape[0], 20000);
  const auto rows = table.as<double>();
  double worst = 0;
  for (std::size_t i = 0; i < rows.size(); i += 7) {
    const auto* r = &rows[i];
    const double p = welch_p_value({r[0], r[1], r[2]}, {r[3], r[4], r[5]});
    worst = std::max(worst, std::abs(p - r[6]));
  }
  EXPECT_LE(worst, 1e-12);
}

// scipy.stats.ttest_ind([1, 2, inf], [3, 4, 5], equal_var=False) and the like.
TEST(Welch, IsUndefinedWhereSciPySaysSo) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const SampleMoments good{0.25, 1, 100};
  for (const SampleMoments& bad : {SampleMoments{nan, nan, 100},
                                   {0, nan, 100},
                                   {nan, 1, 100},
                                   {infinity, nan, 100},
                                   {-infinity, 1, 100},
                                   {0, infinity, 100},
                                   {0, 0, 1},
                                   {0, 1, 0}}) {
    EXPECT_TRUE(std::isnan(welch_p_value(bad, good)));
    EXPECT_TRUE(std::isnan(welch_p_value(good, bad)));
    EXPECT_TRUE(std::isnan(welch_p_value(bad, bad)));
    // It stays in the largest, whatever comes before and after it.
    const SampleMoments other{100, 1, 100};
    for (const double p : largest_p_values(std::vector{other, bad, good}))
      EXPECT_TRUE(std::isnan(p));
  }
}

TEST(Welch, WithoutVarianceEqualMeansAreUndefinedAndOthersDiffer) {
  EXPECT_TRUE(std::isnan(welch_p_value({0.25, 0, 100}, {0.25, 0, 100})));
  EXPECT_TRUE(std::isnan(welch_p_value({0, 0, 100}, {0, 0, 100})));
  EXPECT_EQ(welch_p_value({0.25, 0, 100}, {0.26, 0, 100}), 0);
  // One unit in the last place of a float is no difference, and a variance of that size is none.
  const double next = std::nextafter(0.25f, 1.0f);
  EXPECT_TRUE(std::isnan(welch_p_value({0.25, 1e-17, 100}, {next, 1e-17, 100})));
  // A variance on one side alone is enough to test with.
  const double p = welch_p_value({0.25, 1, 100}, {0.3, 0, 100});
  EXPECT_GT(p, 0.5);
  EXPECT_LT(p, 1);
}

// The p-value has no unit. Squares of variances like these leave the range of f64.
TEST(Welch, IsTheSameAtEveryScale) {
  const double p = welch_p_value({20.82, 2.59, 15}, {23.71, 8.9, 10});
  for (const int exponent : {-500, -300, 300, 500}) {
    const auto scaled = [&](double mean, double variance, double count) {
      return SampleMoments{std::ldexp(mean, exponent), std::ldexp(variance, 2 * exponent), count};
    };
    EXPECT_EQ(welch_p_value(scaled(20.82, 2.59, 15), scaled(23.71, 8.9, 10)), p) << exponent;
  }
  const double most = std::numeric_limits<double>::max();
  EXPECT_TRUE(std::isnan(welch_p_value({0, most, 2}, {1, most, 2})) ||
              welch_p_value({0, most, 2}, {1, most, 2}) == 1);
}

TEST(Welch, AnIndexIsLocalizedOnlyAgainstAllOthers) {
  // Index 2 repeats index 0; index 1 differs from both.
  const std::vector<SampleMoments> moments{{0, 1, 1000}, {1, 1, 1000}, {0, 1, 1000}};
  const std::vector<double> p = largest_p_values(moments);
  EXPECT_EQ(p[0], 1);
  EXPECT_LT(p[1], 1e-6);
  EXPECT_EQ(p[2], 1);
}

// All pairs, one by one.
std::vector<double> largest_of_all_pairs(const std::vector<SampleMoments>& moments) {
  std::vector<double> largest(moments.size(), 0);
  for (std::size_t i = 0; i < moments.size(); ++i) {
    for (std::size_t j = 0; j < moments.size(); ++j) {
      if (i == j) continue;
      const double p = welch_p_value(moments[i], moments[j]);
      if (std::isnan(p) || std::isnan(largest[i])) {
        largest[i] = std::numeric_limits<double>::quiet_NaN();
      } else {
        largest[i] = std::max(largest[i], p);
      }
    }
  }
  return largest;
}

void expect_the_same_bits(const std::vector<SampleMoments>& moments) {
  const std::vector<double> found = largest_p_values(moments);
  const std::vector<double> exact = largest_of_all_pairs(moments);
  ASSERT_EQ(found.size(), exact.size());
  for (std::size_t i = 0; i < exact.size(); ++i) {
    ASSERT_TRUE(found[i] == exact[i] || (std::isnan(found[i]) && std::isnan(exact[i])))
        << i << ": " << found[i] << ", of all pairs " << exact[i];
  }
}

// Maps of every kind: means that are drawn, evenly spaced, tied, in clusters or on a slope,
// variances alike, of many magnitudes or missing, few samples and many, everything at any scale.
TEST(Welch, TheLargestOfFewPairsIsTheLargestOfAll) {
  std::mt19937 random(5);
  const auto below = [&](int most) {
    return static_cast<int>(random() % static_cast<unsigned>(most));
  };
  const auto uniform = [&] { return std::uniform_real_distribution<double>(0, 1)(random); };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (int round = 0; round < 200; ++round) {
    SCOPED_TRACE(round);
    const int sizes[] = {1, 2, 3, 10, 60, 300};
    const int size = sizes[below(6)];
    const int means = below(6), variances = below(6), counts = below(4), bad = below(12);
    const double spread = std::pow(10, 8 * uniform() - 5);
    const int scales[] = {0, 0, 0, 0, -450, 450};
    const int scale = scales[below(6)];
    std::vector<SampleMoments> moments;
    for (int i = 0; i < size; ++i) {
      const double even = static_cast<double>(i) / size - 0.5;
      SampleMoments m{};
      m.mean = means == 0   ? uniform()
               : means == 1 ? even
               : means == 2 ? below(5)
               : means == 3 ? below(4) + 1e-6 * uniform()
               : means == 4 ? even + 1e-14 * uniform()
                            : 1 + 1e-7 * below(9);
      m.variance = variances == 0   ? 1
                   : variances == 1 ? 0.5 + uniform()
                   : variances == 2 ? std::pow(10, 30 * uniform() - 15)
                   : variances == 3 ? below(2)
                   : variances == 4 ? 0
                                    : (below(20) == 0 ? 1e8 : 1e-3);
      m.variance *= spread * spread;
      m.count = counts == 0 ? 2 : counts == 1 ? 1000 : counts == 2 ? 1e6 : 2 + below(200);
      m.mean = std::ldexp(m.mean, scale);
      m.variance = std::ldexp(m.variance, 2 * scale);
      if (bad == 0 && below(100) == 0) m.mean = nan;
      if (bad == 1 && below(100) == 0) m.variance = std::numeric_limits<double>::infinity();
      if (bad == 2 && below(100) == 0) m.count = below(2);
      moments.push_back(m);
    }
    expect_the_same_bits(moments);
  }
}

TEST(Welch, TheLargestOfFewPairsAtTheEndsOfTheRange) {
  const double most = std::numeric_limits<double>::max();
  const double least = std::numeric_limits<double>::denorm_min();
  std::vector<SampleMoments> moments;
  for (const double mean : {0.0, -0.0, least, -least, 1.0, -1.0, most, -most}) {
    for (const double variance : {-1.0, 0.0, least, 1.0, most}) {
      for (const double count : {2.0, 2.5, 1e300, std::numeric_limits<double>::infinity()}) {
        moments.push_back({mean, variance, count});
        expect_the_same_bits(moments);
        expect_the_same_bits({moments.back(), moments[moments.size() / 2], {0.5, 1, 5}});
      }
    }
  }
}

// A quarter of a billion pairs, which would take minutes if all were tested.
TEST(Welch, ManyIndices) {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> uniform(0, 1);
  std::vector<SampleMoments> moments;
  for (int i = 0; i < 24'000; ++i) {
    const double error = i < 10'000 ? 1e-4 : std::pow(10, -6 * uniform(random));
    moments.push_back(
        {i % 3 == 0 ? 0 : i / 2e4 + 1e-5 * uniform(random), 1e4 * error * error, 1e4});
  }
  const std::vector<double> p = largest_p_values(moments);
  EXPECT_EQ(p[0], 1);  // a tie
}

TEST(Welch, ASingleIndexHasNoRivals) {
  EXPECT_EQ(largest_p_values(std::vector<SampleMoments>{{0, 1, 10}}), std::vector<double>{0});
  EXPECT_TRUE(largest_p_values({}).empty());
}

}  // namespace
}  // namespace sidechannel::experiments
