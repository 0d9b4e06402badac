// The training of the probes, as the localization program does it, and what a map comes to.

#include "experiments/localization/probing.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/io/npy.h"
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

// Appendix D's distance is that of the farthest index that is localized, on either side; the
// unbroken one ends before the first that is not.
TEST(Probing, DistancesFromTheEdges) {
  const struct {
    std::vector<bool> localized;
    int distance;
    int unbroken;
  } cases[] = {{{0, 0, 0, 0, 0, 0, 0}, 0, 0},
               {{1, 1, 1, 1, 1, 1, 1}, 4, 4},
               {{1, 0, 0, 0, 0, 0, 1}, 1, 1},
               {{1, 1, 0, 0, 0, 0, 1}, 2, 1},
               {{1, 0, 1, 0, 0, 0, 1}, 3, 1},
               {{0, 0, 0, 0, 1, 0, 0}, 3, 0},
               {{1, 1, 0, 1, 0, 1, 1}, 4, 2},
               {{1, 1, 1, 0, 1, 1, 1}, 3, 3},
               {{1, 0, 0, 1}, 1, 1},
               {{1, 0, 1, 1}, 2, 1},
               {{1}, 1, 1},
               {{0}, 0, 0}};
  for (const auto& [localized, distance, unbroken] : cases) {
    experiments::LocalizationSettings settings;
    settings.length = static_cast<std::int64_t>(localized.size());
    settings.probes = "none";
    const TemporaryFolder folder;
    experiments::RunFolder run(folder / "run", experiments::to_json(settings), Device::cpu(1),
                               experiments::Resume::kAuto);
    HostArray map(DType::kBool, {1, settings.length});
    for (std::size_t i = 0; i < localized.size(); ++i) map.as<bool>()[i] = localized[i];
    write_npy(run.file("localized.npy"), map);
    write_npy(run.file("predictions_mean.npy"), HostArray(DType::kF64, {settings.length}));
    write_npy(run.file("layer_variance.npy"), HostArray(DType::kF64, {1, settings.length}));
    const Json summary = experiments::summarize(settings, run, 0);
    EXPECT_EQ(summary["localization_distance"], distance) << testing::PrintToString(localized);
    EXPECT_EQ(summary["unbroken_distance"], unbroken) << testing::PrintToString(localized);
    EXPECT_EQ(summary["localization_distances"], Json::array({distance}));
    EXPECT_EQ(summary["unbroken_distances"], Json::array({unbroken}));
  }
}

}  // namespace
}  // namespace sidechannel::harness
