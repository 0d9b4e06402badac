// A smaller number than fuzz_files, in every test run.

#include "tests/fuzz/damaged_files.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace sidechannel::fuzz {
namespace {

TEST(DamagedFiles, AreRefusedInOneLine) {
  constexpr std::int64_t kFiles = 1500;
  const Outcome outcome = damage_files(kFiles, 1);
  EXPECT_TRUE(outcome.faults.empty()) << fmt::format("{}", fmt::join(outcome.faults, "\n"));
  EXPECT_GT(outcome.refused, kFiles / 3);  // damage means something...
  EXPECT_GT(outcome.taken, kFiles / 50);   // ...and not everything is refused
}

}  // namespace
}  // namespace sidechannel::fuzz
