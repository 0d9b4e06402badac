// Kernels with one bug each: every build finds what it can, and says so in words that name the bug.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "emu/device.h"
#include "fixture.h"
#include "kernels.h"

namespace sidechannel::test {
namespace {

using kernels::Precision;
using testing::HasSubstr;

// How a bug shows: a message, or values that are not numbers, or not at all.
struct Outcome {
  std::string message;
  bool nan = false;
};

Outcome outcome_of(Bug bug) {
  CudaQueue queue(0, Precision::kFp32);
  const std::shared_ptr<void> memory = queue.allocate(256 * sizeof(float));
  auto* const x = static_cast<float*>(memory.get());
  std::vector<float> values(128);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) + 0.1f;
  queue.copy_to_device(x, values.data(), values.size() * sizeof(float));
  Outcome outcome;
  try {
    run_buggy(queue, bug, x);
    queue.copy_to_host(values.data(), x, values.size() * sizeof(float));
  } catch (const emu::Error& error) {
    outcome.message = error.what();
    return outcome;
  }
  for (const float value : values) outcome.nan = outcome.nan || std::isnan(value);
  return outcome;
}

std::string message_of(Bug bug) {
  return outcome_of(bug).message;
}

class Bugs : public testing::Test {
  FreshMachine machine_;
};

// --- What every build finds
// -------------------------------------------------------------------------

TEST_F(Bugs, DivergentBarrier) {
  EXPECT_THAT(message_of(Bug::kDivergentBarrier), HasSubstr("divergent __syncthreads: at "));
}

TEST_F(Bugs, EarlyReturn) {
  EXPECT_THAT(
      message_of(Bug::kEarlyReturn),
      HasSubstr("the thread exits while 40 threads of its block wait in __syncthreads at "));
}

TEST_F(Bugs, ShuffleFromALaneThatIsNotNamed) {
  EXPECT_THAT(message_of(Bug::kShuffleFromUnnamedLane),
              HasSubstr("shuffle: lane 8 reads lane 16, which mask 0x0000ffff does not name"));
}

TEST_F(Bugs, FullMaskInDivergentCode) {
  const std::string message = message_of(Bug::kFullMaskInDivergentCode);
  EXPECT_TRUE(message.find("the thread exits while lanes of its warp wait for it") !=
                  std::string::npos ||
              message.find("which does not exist or has exited") != std::string::npos)
      << message;
}

TEST_F(Bugs, OperandThatIsNotRounded) {
  EXPECT_THAT(message_of(Bug::kUnroundedOperand), HasSubstr("is not rounded to TF32"));
}

TEST_F(Bugs, ClusterLeavesEarly) {
  EXPECT_THAT(message_of(Bug::kClusterLeavesEarly), HasSubstr("have already exited"));
}

TEST_F(Bugs, Deadlock) {
  const std::string message = message_of(Bug::kDeadlock);
  EXPECT_THAT(message, HasSubstr("deadlock in kernel deadlock"));
  EXPECT_THAT(message, HasSubstr("32 threads wait in __syncthreads at "));
  EXPECT_THAT(message, HasSubstr("32 threads wait in the cluster's barrier at "));
}

TEST_F(Bugs, TooMuchStaticSharedMemory) {
  EXPECT_THAT(message_of(Bug::kStaticSharedTooLarge),
              HasSubstr("49156 bytes of static shared memory, and 48 KiB is the limit"));
}

TEST_F(Bugs, Trap) {
  EXPECT_THAT(message_of(Bug::kTrap), HasSubstr("__trap()"));
}

TEST_F(Bugs, CopyThatNobodyWaitsFor) {
  EXPECT_THAT(message_of(Bug::kForgottenCopy),
              HasSubstr("the thread exits without having waited for its cp.async"));
}

TEST_F(Bugs, PointerToTheHost) {
  CudaQueue queue(0, Precision::kFp32);
  float on_the_host = 0;
  try {
    launch_with_host_pointer(queue, &on_the_host);
    FAIL();
  } catch (const emu::Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("kernel trap is launched with pointer "));
  }
}

TEST_F(Bugs, MessageNamesFileKernelThreadAndBlock) {
  EXPECT_THAT(message_of(Bug::kDivergentBarrier),
              testing::MatchesRegex(
                  "divergent __syncthreads: at tests/emulator/tests/buggy_kernels.cu:[0-9]+, "
                  "while other threads of the block wait at .*:[0-9]+; kernel "
                  "divergent_barrier, thread \\([0-9]+, 0, 0\\) of block "
                  "\\(0, 0, 0\\)"));
}

// After an error the machine goes on.
TEST_F(Bugs, NextLaunchIsNotAffected) {
  for (const Bug bug : {Bug::kEarlyReturn, Bug::kDeadlock, Bug::kTrap}) {
    EXPECT_NE(message_of(bug), "");
    CudaQueue queue(0, Precision::kFp32);
    const Device<float> x(queue, {1, 2, 3, 4});
    reverse_in_block(queue, 4, x.data());
    EXPECT_EQ(x.get(), (std::vector<float>{4, 3, 2, 1}));
  }
}

// --- What poison shows, or the race check says
// --------------------------------------------------------

TEST_F(Bugs, MissingWaitForACopy) {
  const Outcome outcome = outcome_of(Bug::kMissingCopyWait);
  EXPECT_TRUE(outcome.nan || !outcome.message.empty());
}

TEST_F(Bugs, UninitializedSharedMemory) {
  const Outcome outcome = outcome_of(Bug::kUninitializedShared);
  if (emu::checks_accesses()) {
    EXPECT_THAT(outcome.message, HasSubstr("read of shared memory that nobody has written, at "));
  } else {
    EXPECT_TRUE(outcome.nan);
  }
}

TEST_F(Bugs, UninitializedGlobalMemory) {
  const Outcome outcome = outcome_of(Bug::kUninitializedGlobal);
  if (emu::checks_accesses()) {
    EXPECT_THAT(outcome.message, HasSubstr("read of global memory that nobody has written, at "));
  } else {
    EXPECT_TRUE(outcome.nan);
  }
}

// --- What shows as a difference between orders, or in the race check
// ------------------------------------

TEST_F(Bugs, OrderOfThreads) {
  emu::options().verify_orders = true;
  EXPECT_THAT(message_of(Bug::kOrderDependent),
              HasSubstr("the result depends on the order of threads"));
}

class Races : public testing::TestWithParam<Bug> {
  FreshMachine machine_;
};

TEST_P(Races, AreFound) {
  if (!emu::checks_accesses()) emu::options().verify_orders = true;
  const Outcome outcome = outcome_of(GetParam());
  if (emu::checks_accesses()) {
    // Who reads before the other has written may also find that nobody has.
    EXPECT_THAT(outcome.message,
                testing::AnyOf(HasSubstr("race ("), HasSubstr("nobody has written")));
    EXPECT_THAT(outcome.message, HasSubstr("at tests/emulator/tests/buggy_kernels.cu:"));
  } else {
    EXPECT_TRUE(outcome.nan || !outcome.message.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, Races,
                         testing::Values(Bug::kMissingBarrier, Bug::kMissingSecondBarrier,
                                         Bug::kWarpSynchronous));

// One block after the other gives the right sum in any order: only the race check sees it.
TEST_F(Bugs, RaceOfBlocks) {
  if (!emu::checks_accesses()) GTEST_SKIP() << "needs SIDECHANNEL_EMULATOR=race";
  EXPECT_THAT(message_of(Bug::kRaceOfBlocks),
              HasSubstr("race (read after write) on global memory"));
}

// Pointers inside of structs are not seen at the launch.
TEST_F(Bugs, HostMemory) {
  if (!emu::checks_accesses()) GTEST_SKIP() << "needs SIDECHANNEL_EMULATOR=race";
  EXPECT_THAT(message_of(Bug::kHostPointerInStruct), HasSubstr("read of host memory 0x"));
}

// Walls around what a test hands out.
TEST_F(Bugs, ForbiddenMemory) {
  if (!emu::checks_accesses()) GTEST_SKIP() << "needs SIDECHANNEL_EMULATOR=race";
  CudaQueue queue(0, Precision::kFp32);
  const Device<float> x(queue, {1, 2, 3, 4}), y(queue, {1, 2, 3, 4});
  emu::forbid_access(x.data() + 3, sizeof(float));
  add(queue, 3, x.data(), y.data());
  EXPECT_EQ(x.get(), (std::vector<float>{1, 2, 3, 4}));  // a copy may touch it
  add(queue, 4, x.data(), y.data());
  try {
    queue.synchronize();
    FAIL() << "nothing was found";
  } catch (const emu::Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("read of global memory outside of any allocation"));
  }
}

// --- What only checks of every access find
// ------------------------------------------------------------

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif

// The message with the race check, death with AddressSanitizer.
void expect_found(Bug bug, const char* race_check, const char* address_sanitizer) {
  if (emu::checks_accesses()) {
    EXPECT_THAT(message_of(bug), HasSubstr(race_check));
  } else if (kAddressSanitizer) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_DEATH(message_of(bug), address_sanitizer);
  } else {
    GTEST_SKIP() << "needs SIDECHANNEL_EMULATOR=race or asan";
  }
}

TEST(BugsDeathTest, SharedOverflow) {
  expect_found(Bug::kSharedOverflow, "write of shared memory outside of any allocation, at ",
               "AddressSanitizer|index 64 out of bounds");
}

TEST(BugsDeathTest, GlobalOverflow) {
  expect_found(Bug::kGlobalOverflow, "write of global memory outside of any allocation, at ",
               "AddressSanitizer: use-after-poison");
}

// Memory of the same struct, but of another thread's value: to the race check it is a race.
TEST(BugsDeathTest, OverflowInsideAStruct) {
  expect_found(Bug::kOverflowInsideStruct, "race (write after write) on shared memory",
               "index 64 out of bounds");
}

TEST(BugsDeathTest, MisalignedAddress) {
  if (!kAddressSanitizer) GTEST_SKIP() << "needs SIDECHANNEL_EMULATOR=asan";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(message_of(Bug::kMisaligned), "misaligned address");
}

// --- Host code
// ----------------------------------------------------------------------------------------

TEST(BugsDeathTest, HostReadsDeviceMemory) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  CudaQueue queue(0, Precision::kFp32);
  const Device<float> x(queue, {1, 2, 3});
  EXPECT_DEATH(static_cast<void>(*static_cast<volatile float*>(x.data())),
               "emulated CUDA: host code reads or writes device memory");
}

}  // namespace
}  // namespace sidechannel::test
