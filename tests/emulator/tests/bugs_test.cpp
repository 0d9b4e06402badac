// Kernels with one bug each: every build finds what it can, and says so in words that name the bug.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "emu/device.h"
#include "fixture.h"
#include "kernels.h"

namespace sidechannel::test {
namespace {

using kernels::Precision;
using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;

// How a bug shows: a message, or values that are not numbers, or not at all.
struct Outcome {
  std::string message;
  bool nan = false;
};

using Run = std::function<void(CudaQueue& queue, float* x)>;

Outcome outcome_of(const Run& run) {
  CudaQueue queue(0, Precision::kFp32);
  const std::shared_ptr<void> memory = queue.allocate(256 * sizeof(float));
  auto* const x = static_cast<float*>(memory.get());
  std::vector<float> values(128);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) + 0.1f;
  queue.copy_to_device(x, values.data(), values.size() * sizeof(float));
  Outcome outcome;
  try {
    run(queue, x);
    queue.copy_to_host(values.data(), x, values.size() * sizeof(float));
  } catch (const emu::Error& error) {
    outcome.message = error.what();
    return outcome;
  }
  for (const float value : values) outcome.nan = outcome.nan || std::isnan(value);
  return outcome;
}

Outcome outcome_of(const std::string& kernel) {
  return outcome_of([&](CudaQueue& queue, float* x) { run_buggy(queue, kernel, x); });
}

std::string message_of(const std::string& kernel) {
  return outcome_of(kernel).message;
}

class Bugs : public MachineTest {};

// --- What every build finds ----------------------------------------------------------------------

// Each kernel with the message that it must end with.
struct Found {
  const char* kernel;
  testing::Matcher<std::string> message;
};

class BugsOfEveryBuild : public testing::TestWithParam<Found> {
  FreshMachine machine_;
};

TEST_P(BugsOfEveryBuild, AreFound) {
  EXPECT_THAT(message_of(GetParam().kernel), GetParam().message);
}

INSTANTIATE_TEST_SUITE_P(
    , BugsOfEveryBuild,
    testing::Values(
        Found{"divergent_barrier", HasSubstr("divergent __syncthreads: at ")},
        Found{"early_return", HasSubstr("the thread exits while 40 threads of its block wait in "
                                        "__syncthreads at ")},
        Found{"shuffle_from_unnamed_lane",
              HasSubstr("shuffle: lane 8 reads lane 16, which mask 0x0000ffff does not name")},
        Found{"full_mask_in_divergent_code",
              AnyOf(HasSubstr("the thread exits while lanes of its warp wait for it"),
                    HasSubstr("which does not exist or has exited"))},
        Found{"unrounded_operand", HasSubstr("is not rounded to TF32")},
        Found{"cluster_leaves_early", HasSubstr("have already exited")},
        Found{"deadlock", AllOf(HasSubstr("deadlock in kernel deadlock"),
                                HasSubstr("32 threads wait in __syncthreads at "),
                                HasSubstr("32 threads wait in the cluster's barrier at "))},
        Found{"static_shared_too_large",
              HasSubstr("49156 bytes of static shared memory, and 48 KiB is the limit")},
        Found{"trap", HasSubstr("__trap()")},
        Found{"forgotten_copy",
              HasSubstr("the thread exits without having waited for its cp.async")}),
    [](const auto& found) { return std::string(found.param.kernel); });

TEST_F(Bugs, PointerToTheHost) {
  CudaQueue queue(0, Precision::kFp32);
  float on_the_host = 0;
  EXPECT_THAT(error_of<emu::Error>([&] { launch_with_host_pointer(queue, &on_the_host); }),
              HasSubstr("kernel trap is launched with pointer "));
}

TEST_F(Bugs, MessageNamesFileKernelThreadAndBlock) {
  EXPECT_THAT(message_of("divergent_barrier"),
              testing::MatchesRegex(
                  "divergent __syncthreads: at tests/emulator/tests/buggy_kernels.cu:[0-9]+, "
                  "while other threads of the block wait at .*:[0-9]+; kernel "
                  "divergent_barrier, thread \\([0-9]+, 0, 0\\) of block "
                  "\\(0, 0, 0\\)"));
}

// After an error the machine goes on.
TEST_F(Bugs, NextLaunchIsNotAffected) {
  for (const char* const kernel : {"early_return", "deadlock", "trap"}) {
    EXPECT_NE(message_of(kernel), "");
    CudaQueue queue(0, Precision::kFp32);
    const Device<float> x(queue, {1, 2, 3, 4});
    reverse_in_block(queue, 4, x.data());
    EXPECT_EQ(x.get(), (std::vector<float>{4, 3, 2, 1}));
  }
}

// --- What poison shows, or the race check says ---------------------------------------------------

TEST_F(Bugs, MissingWaitForACopy) {
  const Outcome outcome = outcome_of("missing_copy_wait");
  EXPECT_TRUE(outcome.nan || !outcome.message.empty());
}

TEST_F(Bugs, UninitializedMemory) {
  for (const std::string memory : {"shared", "global"}) {
    const Outcome outcome = outcome_of("uninitialized_" + memory);
    if (emu::checks_accesses()) {
      EXPECT_THAT(outcome.message,
                  HasSubstr("read of " + memory + " memory that nobody has written, at "));
    } else {
      EXPECT_TRUE(outcome.nan) << memory;
    }
  }
}

// --- What shows as a difference between orders, or in the race check -----------------------------

TEST_F(Bugs, OrderOfThreads) {
  emu::options().verify_orders = true;
  EXPECT_THAT(message_of("order_dependent"),
              HasSubstr("the result depends on the order of threads"));
}

class Races : public testing::TestWithParam<const char*> {
  FreshMachine machine_;
};

TEST_P(Races, AreFound) {
  if (!emu::checks_accesses()) emu::options().verify_orders = true;
  const Outcome outcome = outcome_of(GetParam());
  if (emu::checks_accesses()) {
    // Who reads before the other has written may also find that nobody has.
    EXPECT_THAT(outcome.message, AnyOf(HasSubstr("race ("), HasSubstr("nobody has written")));
    EXPECT_THAT(outcome.message, HasSubstr("at tests/emulator/tests/buggy_kernels.cu:"));
  } else {
    EXPECT_TRUE(outcome.nan || !outcome.message.empty());
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, Races,
                         testing::Values("missing_barrier", "missing_second_barrier",
                                         "warp_synchronous"));

class RaceCheck : public QueueTest {
 protected:
  void SetUp() override {
    if (!emu::checks_accesses()) GTEST_SKIP() << "needs SIDECHANNEL_EMULATOR=race";
  }
};

// One block after the other gives the right sum in any order: only the race check sees it.
TEST_F(RaceCheck, RaceOfBlocks) {
  EXPECT_THAT(message_of("race_of_blocks"), HasSubstr("race (read after write) on global memory"));
}

// Pointers inside of structs are not seen at the launch.
TEST_F(RaceCheck, HostMemory) {
  EXPECT_THAT(outcome_of(launch_with_host_pointer_in_struct).message,
              HasSubstr("read of host memory 0x"));
}

// Walls around what a test hands out.
TEST_F(RaceCheck, ForbiddenMemory) {
  const Device<float> x(queue, {1, 2, 3, 4}), y(queue, {1, 2, 3, 4});
  emu::forbid_access(x.data() + 3, sizeof(float));
  add(queue, 3, x.data(), y.data());
  EXPECT_EQ(x.get(), (std::vector<float>{1, 2, 3, 4}));  // a copy may touch it
  add(queue, 4, x.data(), y.data());
  EXPECT_THAT(error_of<emu::Error>([&] { queue.synchronize(); }),
              HasSubstr("read of global memory outside of any allocation"));
}

// --- What only checks of every access find -------------------------------------------------------

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif

// The message with the race check, death with AddressSanitizer.
void expect_found(const char* kernel, const char* race_check, const char* address_sanitizer) {
  if (emu::checks_accesses()) {
    EXPECT_THAT(message_of(kernel), HasSubstr(race_check));
  } else if (kAddressSanitizer) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_DEATH(message_of(kernel), address_sanitizer);
  } else {
    GTEST_SKIP() << "needs SIDECHANNEL_EMULATOR=race or asan";
  }
}

TEST(BugsDeathTest, SharedOverflow) {
  expect_found("shared_overflow", "write of shared memory outside of any allocation, at ",
               "AddressSanitizer|index 64 out of bounds");
}

TEST(BugsDeathTest, GlobalOverflow) {
  expect_found("global_overflow", "write of global memory outside of any allocation, at ",
               "AddressSanitizer: use-after-poison");
}

// Memory of the same struct, but of another thread's value: to the race check it is a race.
TEST(BugsDeathTest, OverflowInsideAStruct) {
  expect_found("overflow_inside_struct", "race (write after write) on shared memory",
               "index 64 out of bounds");
}

TEST(BugsDeathTest, MisalignedAddress) {
  if (!kAddressSanitizer) GTEST_SKIP() << "needs SIDECHANNEL_EMULATOR=asan";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(message_of("misaligned"), "misaligned address");
}

// --- Host code -----------------------------------------------------------------------------------

TEST(BugsDeathTest, HostReadsDeviceMemory) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  CudaQueue queue(0, Precision::kFp32);
  const Device<float> x(queue, {1, 2, 3});
  EXPECT_DEATH(static_cast<void>(*static_cast<volatile float*>(x.data())),
               "emulated CUDA: host code reads or writes device memory");
}

}  // namespace
}  // namespace sidechannel::test
