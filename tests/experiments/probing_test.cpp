// The training of the probes, as the localization program does it.

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/harness/program.h"

namespace sidechannel::harness {
namespace {

// The lines that a run of 20 probe steps logs, by step.
std::map<int, std::string> probe_lines(const std::string& schedule) {
  const TemporaryFolder folder;
  const ProgramResult result = run_program(
      "localization",
      words("run --length 20 --depth 3 --channels 8 --batch 2 --iterations 5 --probe-iterations 20 "
            "--probe-width 8 --map-samples 16 --log-every 7 --device cpu",
            {"--probe-schedule", schedule, "--out", folder / "run"}));
  EXPECT_EQ(result.code, 0) << result.err;
  std::istringstream metrics(content_of(folder / "run" + "/metrics.jsonl"));
  std::map<int, std::string> lines;
  for (std::string line; std::getline(metrics, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json.value("phase", "") == "probe") lines[json.at("step")] = line;
  }
  return lines;
}

TEST(Probing, TheRateFallsAtTheEndWhereThatIsAskedFor) {
  const auto constant = probe_lines("constant");
  const auto tail = probe_lines("tail");
  ASSERT_EQ(constant.size(), 3u);
  ASSERT_EQ(tail.size(), 3u);
  // The same for 70 % of the steps.
  EXPECT_EQ(constant.at(7), tail.at(7));
  EXPECT_EQ(constant.at(14), tail.at(14));
  EXPECT_NE(constant.at(20), tail.at(20));
}

}  // namespace
}  // namespace sidechannel::harness
