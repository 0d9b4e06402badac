#include "kernels/learning_rate.h"

#include <gtest/gtest.h>

namespace sidechannel {
namespace {

using kernels::LearningRate;
using Schedule = kernels::LearningRate::Schedule;

TEST(LearningRate, ConstantIsConstant) {
  const LearningRate rate{0.25};
  for (std::int64_t step : {0, 1, 500, 999}) EXPECT_EQ(rate.at(step), 0.25);
}

TEST(LearningRate, TailIsFlatThenLinearDownToFivePercent) {
  const LearningRate rate{1, Schedule::kTail, 0, 1000};
  EXPECT_EQ(rate.at(0), 1);
  EXPECT_EQ(rate.at(699), 1);
  EXPECT_LT(rate.at(700), 1);
  EXPECT_NEAR(rate.at(849), 0.525, 1e-12);  // halfway down
  EXPECT_NEAR(rate.at(999), 0.05, 1e-12);
  const double slope = rate.at(700) - rate.at(701);
  for (std::int64_t step = 701; step + 1 < 1000; ++step) {
    EXPECT_NEAR(rate.at(step) - rate.at(step + 1), slope, 1e-12);
  }
}

TEST(LearningRate, WarmUpIsLinearFromZero) {
  for (const Schedule schedule : {Schedule::kConstant, Schedule::kTail}) {
    const LearningRate rate{1, schedule, 20, 1000};
    EXPECT_NEAR(rate.at(0), 0.05, 1e-12);
    EXPECT_NEAR(rate.at(9), 0.5, 1e-12);
    EXPECT_EQ(rate.at(19), 1);
    EXPECT_EQ(rate.at(20), 1);
  }
  // Longer than the flat part: both apply.
  const LearningRate rate{1, Schedule::kTail, 2000, 1000};
  EXPECT_NEAR(rate.at(999), 0.05 * 0.5, 1e-12);
}

TEST(LearningRate, OneStepIsTheLastOne) {
  EXPECT_NEAR((LearningRate{1, Schedule::kTail, 0, 1}.at(0)), 0.05, 1e-12);
}

TEST(LearningRate, ScalesWithItsBase) {
  const LearningRate one{1, Schedule::kTail, 30, 100};
  const LearningRate rate{2e-3, Schedule::kTail, 30, 100};
  for (std::int64_t step = 0; step < 100; ++step) EXPECT_EQ(rate.at(step), 2e-3 * one.at(step));
}

}  // namespace
}  // namespace sidechannel
