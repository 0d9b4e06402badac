#include "experiments/welch.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "engine/npy.h"
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

TEST(Welch, ASingleIndexHasNoRivals) {
  EXPECT_EQ(largest_p_values(std::vector<SampleMoments>{{0, 1, 10}}), std::vector<double>{0});
  EXPECT_TRUE(largest_p_values({}).empty());
}

}  // namespace
}  // namespace sidechannel::experiments
