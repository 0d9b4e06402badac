// The commands of ./run figures --preset paper, each for its first 20 steps, on the CPU.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "engine/io/checkpoint.h"
#include "experiments/run/interrupt.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

using harness::content_of;
using harness::ProgramResult;
using harness::run_program;
using harness::TemporaryFolder;

struct Start {
  const char* name;
  const char* program;
  const char* arguments;
  const char* folder;  // of the training, below --out
  std::int64_t length;
  double loss;  // what answering 0 costs: the first steps do not lie far from it
};

void PrintTo(const Start& start, std::ostream* out) {
  *out << start.name;
}

// A twelfth: the variance of the targets, even between -1/2 and 1/2. Of targets -1 and 1 it is 1.
const Start kStarts[] = {
    {"Figure1Instance", "localization", "run --norm instance", "", 600, 1 / 12.0},
    {"Figure1None", "localization", "run --norm none", "", 600, 1 / 12.0},
    {"Figure1Position", "localization", "run --norm position", "", 600, 1 / 12.0},
    {"Constant", "localization", "run --norm instance --input constant", "", 600, 1 / 12.0},
    {"Figure3", "overlap", "run --overlap 96", "overlap-096", 129, 1},
    {"Figure4", "sweep", "run --cell 139 --preset groups/paper",
     "cells/groups=64,learning_rate=0.00064,seed=4", 600, 1 / 12.0},
    {"Crosstalk", "sweep", "run --cell 29 --preset crosstalk/paper",
     "cells/samples_per_set=32,learning_rate=0.0001,seed=4", 250, 1 / 12.0},
    {"Figure5Batch", "localization", "run --norm batch", "", 250, 1 / 12.0},
    {"Figure5None", "localization", "run --norm none --length 250", "", 250, 1 / 12.0},
};

class PaperScale : public testing::TestWithParam<Start> {};

TEST_P(PaperScale, Starts) {
  const Start& start = GetParam();
  const TemporaryFolder folder;
  const std::string out = folder / "run";
  const bool sweeps = std::string(start.program) == "sweep";
  const ProgramResult result = run_program(
      start.program,
      harness::words(std::string(start.arguments) +
                         (sweeps ? " --set log_every=10" : " --preset paper --log-every 10") +
                         " --device cpu --stop-after 20 --out",
                     {out}));
  ASSERT_EQ(result.code, kExitInterrupted) << result.err;

  const std::filesystem::path run = std::filesystem::path(out) / start.folder;
  const auto config = nlohmann::json::parse(content_of(run / "config.json"));
  if (config["settings"].contains("length")) {
    EXPECT_EQ(config["settings"]["length"], start.length);
  }
  const auto state = load_checkpoint(run / "checkpoint.safetensors");
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(state->metadata.at("step"), "20");
  EXPECT_TRUE((state->tensors.at("blocks.29.conv.weight").shape == Shape{64, 64, 5}));
  std::istringstream lines(content_of(run / "metrics.jsonl"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const auto json = nlohmann::json::parse(line);
    EXPECT_GT(json["loss"].get<double>(), 0.5 * start.loss) << line;
    EXPECT_LT(json["loss"].get<double>(), 4 * start.loss) << line;
    EXPECT_GT(json["gradient_norm"].get<double>(), 0) << line;
  }
  EXPECT_EQ(count, 2);
}

INSTANTIATE_TEST_SUITE_P(Figures, PaperScale, testing::ValuesIn(kStarts),
                         [](const auto& start) { return start.param.name; });

}  // namespace
}  // namespace sidechannel::experiments
