// Barriers that count bytes, bulk copies and products of warp groups: right in every order of
// threads; and each way to use them wrongly is found.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "emu/device.h"
#include "fixture.h"
#include "hopper_kernel.h"

namespace sidechannel::test {
namespace {

using testing::AnyOf;
using testing::HasSubstr;

class Hopper : public QueueTest {
 protected:
  // Small integers, so that every sum is exact.
  static float number(std::size_t i) { return static_cast<float>(i * 7 % 23) - 11; }
  static std::vector<float> numbers(std::size_t size, std::size_t first) {
    std::vector<float> all(size);
    for (std::size_t i = 0; i < size; ++i) all[i] = number(first + i);
    return all;
  }

  std::vector<float> product(Bug bug) {
    hopper_product(queue, bug, a.data(), b.data(), y.data());
    return y.get();
  }
  std::string message(Bug bug) {
    return error_of<emu::Error>([&] { product(bug); });
  }

  Device<float> a{queue, numbers(1024, 0)};
  Device<float> b{queue, numbers(2048, 5)};
  Device<float> y{queue, std::vector<float>(8192)};
};

// Against the definition, entry by entry.
TEST_F(Hopper, ProductOfAWarpGroup) {
  const std::vector<float> left = numbers(1024, 0), right = numbers(2048, 5);
  std::vector<float> expected(8192);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const std::size_t block = i / 4096, row = i / 64 % 64, column = i % 64;
    for (std::size_t k = 0; k < 16; ++k) {
      expected[i] += left[k / 4 * 256 + row * 4 + k % 4] * right[(block * 64 + column) * 16 + k];
    }
  }
  for (const emu::Order order : {emu::Order::kFirstIn, emu::Order::kLastIn, emu::Order::kRandom}) {
    emu::options().order = order;
    EXPECT_EQ(product(Bug::kNone), expected) << static_cast<int>(order);
  }
}

TEST_F(Hopper, BugsOfEveryBuild) {
  const std::pair<Bug, const char*> found[] = {
      {Bug::kNoBarrier, "was not initialized"},
      {Bug::kBarrierTwice, "second mbarrier.init at "},
      {Bug::kBarrierOverwritten, "its memory was written over"},
      {Bug::kTooManyArrivals, "more arrivals than the 65 that it was made for"},
      {Bug::kTooFewArrivals, "threads wait in mbarrier.try_wait at "},
      {Bug::kTooManyBytes, "4096 bytes are copied, and 2048 are expected"},
      {Bug::kTooFewBytes, "threads wait in mbarrier.try_wait at "},
      {Bug::kMisalignedCopy, "misaligned"},
      {Bug::kCopyFromTheHost, "the source is not in one allocation of global memory"},
      {Bug::kCopyBeyondTheCluster, "blocks 0xf of a cluster of 2"},
      {Bug::kNoWgmmaFence, "without wgmma.fence"},
      {Bug::kNoWgmmaWait, "exits without having waited for its wgmma at "},
      {Bug::kDifferentOperands, "the threads of a warp group ask for different products"},
      {Bug::kUnroundedOperand, "an operand is not rounded to TF32"},
      {Bug::kSwizzle, "a descriptor with a swizzle"},
  };
  for (const auto& [bug, text] : found) {
    const std::string said = message(bug);
    EXPECT_THAT(said, HasSubstr(text)) << static_cast<int>(bug);
    EXPECT_THAT(said, HasSubstr("hopper_kernel")) << static_cast<int>(bug);
  }
}

// Another thread's writes that nothing puts in an order: what is read may be anything.
TEST_F(Hopper, OperandsThatNobodyWaitsFor) {
  if (emu::checks_accesses()) {
    EXPECT_THAT(message(Bug::kNoWait), AnyOf(HasSubstr("race ("), HasSubstr("nobody has written")));
    return;
  }
  emu::options().order = emu::Order::kFirstIn;
  bool found = false;
  const std::string said = error_of<emu::Error>([&] {
    for (const float value : product(Bug::kNoWait)) found = found || std::isnan(value);
  });
  EXPECT_TRUE(found || said != "no error");
}

TEST_F(Hopper, WhatOnlyTheRaceCheckFinds) {
  if (!emu::checks_accesses()) GTEST_SKIP() << "needs SIDECHANNEL_EMULATOR=race";
  EXPECT_THAT(message(Bug::kNoProxyFence), HasSubstr("without fence.proxy.async after it"));
  // Who comes before it was made finds no barrier at all.
  EXPECT_THAT(message(Bug::kBarrierNotShown),
              AnyOf(HasSubstr("race ("), HasSubstr("was not initialized")));
}

TEST_F(Hopper, OtherDevicesHaveNone) {
  emu::device_model().compute_capability = 100;
  EXPECT_THAT(message(Bug::kNone), HasSubstr("needs compute capability 9.0"));
}

}  // namespace
}  // namespace sidechannel::test
