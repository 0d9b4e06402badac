#include "engine/device_value.h"

#include <gtest/gtest.h>

#include "engine/replay.h"
#include "tests/harness/op_check.h"

namespace sidechannel {
namespace {

struct State {
  double rate = 0.25;
  std::int64_t steps = 3;
  bool last = true;
};

TEST(DeviceValue, GivesBackWhatWasSet) {
  const DeviceValue<State> initial(harness::device());
  EXPECT_EQ(initial.get().rate, 0.25);
  EXPECT_EQ(initial.get().steps, 3);
  EXPECT_TRUE(initial.get().last);
  const DeviceValue<State> value(harness::device(), {1, 2, false});
  EXPECT_EQ(value.get().steps, 2);
  value.set({4, 5, true});
  EXPECT_EQ(value.get().rate, 4);
  EXPECT_EQ(value.get().steps, 5);
  EXPECT_TRUE(value.get().last);
}

TEST(DeviceValue, LiesWhereKernelsFindIt) {
  DeviceValue<State> value(harness::device());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(value.data()) % alignof(State), 0u);
  State* on_device = value.data();  // which is this one, on a CPU
  on_device->steps += 4;
  EXPECT_EQ(value.get().steps, 7);
  const DeviceValue<State> same = value;
  same.set({});
  EXPECT_EQ(value.get().steps, 3);
  value = DeviceValue<State>(harness::device(), {1, 2, false});
  EXPECT_EQ(same.data(), on_device);
}

TEST(Replay, RunsEveryStep) {
  const DeviceValue<std::int64_t> count(harness::device(), 0);
  Replay replay(harness::device());
  for (int i = 0; i < 7; ++i) {
    replay([&] { ++*count.data(); });
    EXPECT_EQ(count.get(), i + 1);
  }
}

}  // namespace
}  // namespace sidechannel
