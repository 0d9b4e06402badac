// Some of the command lines of tests/fuzz through the programs themselves.

#include <gtest/gtest.h>

#include "tests/fuzz/settings_cases.h"
#include "tests/harness/program.h"

namespace sidechannel::fuzz {
namespace {

TEST(SettingsFuzz, ProgramsAnswerInOneLine) {
  const harness::TemporaryFolder folder;
  Cases cases(11, folder / "p.json");
  for (int i = 0; i < 300; ++i) {
    const Case next = cases.next();
    const harness::ProgramResult result = harness::run_program(next.program, next.arguments);
    EXPECT_TRUE(result.code == 0 || result.code == 1 || result.code == 2)
        << next.str() << " " << result.code;
    if (result.code == 0) {
      EXPECT_EQ(result.err, "") << next.str();
      continue;
    }
    EXPECT_EQ(result.out, "") << next.str();
    EXPECT_TRUE(result.err.starts_with(next.program + ": ")) << next.str() << ": " << result.err;
    EXPECT_EQ(result.err.find('\n'), result.err.size() - 1) << next.str() << ": " << result.err;
  }
}

}  // namespace
}  // namespace sidechannel::fuzz
