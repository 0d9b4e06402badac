#include "engine/optim/schedule.h"

#include <gtest/gtest.h>

#include "tests/harness/op_check.h"

namespace sidechannel {
namespace {

using harness::error_of;

TEST(Schedule, ConstantIsConstant) {
  const Schedule schedule;
  for (std::int64_t step : {0, 1, 500, 999}) EXPECT_EQ(schedule.factor(step, 1000), 1);
}

TEST(Schedule, TailIsFlatThenLinearDownToFivePercent) {
  const Schedule schedule{Schedule::Kind::kTail};
  EXPECT_EQ(schedule.factor(0, 1000), 1);
  EXPECT_EQ(schedule.factor(699, 1000), 1);
  EXPECT_LT(schedule.factor(700, 1000), 1);
  EXPECT_NEAR(schedule.factor(849, 1000), 0.525, 1e-12);  // halfway down
  EXPECT_NEAR(schedule.factor(999, 1000), 0.05, 1e-12);
  const double slope = schedule.factor(700, 1000) - schedule.factor(701, 1000);
  for (std::int64_t step = 701; step + 1 < 1000; ++step) {
    EXPECT_NEAR(schedule.factor(step, 1000) - schedule.factor(step + 1, 1000), slope, 1e-12);
  }
}

TEST(Schedule, WarmUpIsLinearFromZero) {
  for (const auto kind : {Schedule::Kind::kConstant, Schedule::Kind::kTail}) {
    const Schedule schedule{kind, 20};
    EXPECT_NEAR(schedule.factor(0, 1000), 0.05, 1e-12);
    EXPECT_NEAR(schedule.factor(9, 1000), 0.5, 1e-12);
    EXPECT_EQ(schedule.factor(19, 1000), 1);
    EXPECT_EQ(schedule.factor(20, 1000), 1);
  }
  // Longer than the flat part: both apply.
  const Schedule schedule{Schedule::Kind::kTail, 2000};
  EXPECT_NEAR(schedule.factor(999, 1000), 0.05 * 0.5, 1e-12);
}

TEST(Schedule, OneStepIsTheLastOne) {
  EXPECT_NEAR((Schedule{Schedule::Kind::kTail}.factor(0, 1)), 0.05, 1e-12);
}

TEST(Schedule, IsNamed) {
  EXPECT_EQ(Schedule::kind_from("constant"), Schedule::Kind::kConstant);
  EXPECT_EQ(Schedule::kind_from("tail"), Schedule::Kind::kTail);
  EXPECT_EQ(error_of([] { Schedule::kind_from("cosine"); }),
            "schedule cosine: expected constant or tail");
}

}  // namespace
}  // namespace sidechannel
