// What runs need, as it is estimated, against what they take; and the limits that it is held to.

#include "experiments/localization/memory.h"
#include "experiments/overlap/memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <fstream>

#include "experiments/localization/localize.h"
#include "experiments/localization/training.h"
#include "experiments/overlap/settings.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

using harness::run_program;
using harness::TemporaryFolder;

LocalizationSettings sized(std::int64_t length, std::int64_t depth, std::int64_t channels,
                           std::int64_t batch, const char* norm) {
  LocalizationSettings settings;
  settings.length = length;
  settings.depth = depth;
  settings.channels = channels;
  settings.batch = batch;
  settings.norm = norm;
  settings.check();
  return settings;
}

TEST(Memory, TheArenaOfATrainingStepIsWhatIsEstimated) {
  const Device& device = harness::device();
  for (const LocalizationSettings& settings :
       {sized(64, 8, 32, 8, "instance"), sized(600, 12, 64, 4, "none"),
        sized(257, 3, 16, 32, "layer"), sized(100, 2, 64, 16, "instance"),
        sized(1000, 20, 8, 3, "group")}) {
    Localizer network(device, DType::kF32, settings.network(), 0);
    LocalizationStep step(network, settings.training_rate(), settings.batch, settings.length, 0);
    for (int i = 0; i < 3; ++i) step();
    const auto taken = static_cast<double>(step.arena_bytes());
    const MemoryPart arena = memory_of(settings, LocalizationPhases::kTrain).at(1).at(1);
    // Arenas grow by doubling: between what is written to and twice that is set aside.
    EXPECT_LE(taken, arena.device + arena.reserve) << settings.norm;
    EXPECT_GE(taken, 0.5 * arena.device) << settings.norm;
  }
}

#if !defined(__SANITIZE_ADDRESS__)  // which has memory of its own for every byte
double estimated(const MemoryNeed& need) {
  constexpr double kProgram = 32 << 20;
  const MemoryPeak peak = peak_of(need);
  return peak.device + peak.host + kProgram;
}

void expect_peak(const char* program, std::vector<std::string> arguments, double estimate) {
  const TemporaryFolder folder;
  arguments.insert(arguments.end(), {"--threads", "1", "--device", "cpu", "--out", folder / "run"});
  const int pid = harness::start_program(program, arguments);
  int status = 0;
  struct rusage usage {};
  ASSERT_EQ(wait4(pid, &status, 0, &usage), pid);
  ASSERT_EQ(status, 0);
  const double taken = static_cast<double>(usage.ru_maxrss) * 1024;
  EXPECT_LE(taken, 1.25 * estimate) << arguments.front();
  EXPECT_GE(taken, 0.5 * estimate) << arguments.front();
}

TEST(Memory, RunsTakeWhatIsEstimated) {
  LocalizationSettings settings = sized(600, 8, 32, 32, "instance");
  expect_peak("localization", {"train", "--length", "600", "--batch", "32", "--iterations", "2"},
              estimated(memory_of(settings, LocalizationPhases::kTrain)));
  settings = sized(16, 4, 512, 1, "none");
  expect_peak("localization",
              {"train", "--norm", "none", "--length", "16", "--depth", "4", "--channels", "512",
               "--batch", "1", "--iterations", "1"},
              estimated(memory_of(settings, LocalizationPhases::kTrain)));
  settings = sized(16, 3, 8, 2, "instance");
  settings.probe_width = 2048;
  settings.probe_batch = 2;
  settings.map_samples = 32;
  expect_peak("localization",
              {"run", "--length", "16", "--depth", "3", "--channels", "8", "--batch", "2",
               "--iterations", "2", "--probe-width", "2048", "--probe-batch", "2",
               "--probe-iterations", "1", "--map-samples", "32"},
              estimated(memory_of(settings, LocalizationPhases::kAll)));
  OverlapSettings overlap;
  overlap.batch = 128;
  overlap.channels = 128;
  expect_peak("overlap",
              {"run", "--batch", "128", "--channels", "128", "--iterations", "2", "--test-pairs",
               "2", "--overlaps", "3,5"},
              estimated(memory_of(overlap)));
}

TEST(Memory, ALimitOnAddressSpaceIsRefusedInWordsBeforeAnythingIsMade) {
  const TemporaryFolder folder;
  struct rlimit before {};
  getrlimit(RLIMIT_AS, &before);
  struct rlimit small = before;
  small.rlim_cur = rlim_t{1} << 30;
  setrlimit(RLIMIT_AS, &small);
  const auto result = run_program("localization", {"run", "--length", "2000", "--batch", "200",
                                                   "--device", "cpu", "--out", folder / "run"});
  setrlimit(RLIMIT_AS, &before);
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(result.err.starts_with("localization: this needs about ")) << result.err;
  EXPECT_NE(result.err.find("the activations of a training step, and the limit on address space "
                            "(ulimit -v) leaves "),
            std::string::npos)
      << result.err;
  EXPECT_TRUE(result.err.ends_with("; lower --batch, --length, --channels or --depth\n"))
      << result.err;
  EXPECT_FALSE(std::filesystem::exists(folder / "run"));
}
#endif

TEST(Memory, WhatNoMachineHasIsRefusedWithTheFlagsToLower) {
  const TemporaryFolder folder;
  const auto refusal = [&](std::vector<std::string> arguments, const std::string& what,
                           const std::string& lower) {
    arguments.insert(arguments.end(),
                     {"--device", "cpu", "--threads", "1", "--out", folder / "run"});
    const std::string program = arguments.front();
    arguments.erase(arguments.begin());
    const auto result = run_program(program, arguments);
    EXPECT_EQ(result.code, 1);
    EXPECT_NE(result.err.find(what), std::string::npos) << result.err;
    EXPECT_TRUE(result.err.ends_with("; lower " + lower + "\n")) << result.err;
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1);
  };
  refusal({"localization", "run", "--batch", "1000000", "--length", "1000000"},
          "the activations of a training step", "--batch, --length, --channels or --depth");
  refusal({"localization", "train", "--channels", "16384", "--depth", "1000"},
          "the network's weights", "--channels, --depth or --kernel-size");
  // Before the training, not after it.
  refusal({"localization", "run", "--probe-width", "16384", "--depth", "1000"},
          "the probes' weights", "--probe-width, --channels or --depth");
  refusal({"overlap", "run", "--channels", "16384", "--depth", "1000", "--overlaps", "1"},
          "the networks' weights", "--channels, --depth or --kernel-size");
  refusal({"groups", "run", "--batch", "1000000", "--length", "1000000", "--jobs", "2"},
          "the activations of a training step", "--jobs, --batch, --length, --channels or --depth");
  EXPECT_FALSE(std::filesystem::exists(folder / "run" + "/config.json"));
}

void write(const std::filesystem::path& file, const std::string& text) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file) << text;
}

TEST(Memory, LimitsAreThoseOfTheMachineAndOfEveryControlGroupAround) {
  const TemporaryFolder folder;
  const std::filesystem::path& root = folder.path();
  EXPECT_TRUE(memory_limits(root).empty());  // nothing known, nothing refused
  write(root / "proc/meminfo", "MemTotal: 99 kB\nMemAvailable:    2048 kB\n");
  write(root / "proc/self/mountinfo",
        "30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
        "33 22 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,cpu,memory\n");
  write(root / "proc/self/cgroup", "0::/outer/inner\n");
  write(root / "sys/fs/cgroup/outer/inner/memory.max", "max\n");
  write(root / "sys/fs/cgroup/outer/inner/memory.current", "1\n");
  write(root / "sys/fs/cgroup/outer/memory.max", "1000000\n");
  write(root / "sys/fs/cgroup/outer/memory.current", "600000\n");
  write(root / "sys/fs/cgroup/outer/memory.stat", "anon 5\ninactive_file 100000\n");
  std::vector<MemoryLimit> limits = memory_limits(root);
  ASSERT_EQ(limits.size(), 2u);
  EXPECT_EQ(limits[0].bytes, 2048 * 1024);
  EXPECT_EQ(limits[1].bytes, 500'000);  // page cache is given back

  write(root / "proc/self/cgroup", "7:cpu,memory:/job\n");
  write(root / "sys/fs/cgroup/memory/job/memory.limit_in_bytes", "3000\n");
  write(root / "sys/fs/cgroup/memory/job/memory.usage_in_bytes", "4000\n");
  limits = memory_limits(root);
  ASSERT_EQ(limits.size(), 2u);
  EXPECT_EQ(limits[1].bytes, 0);

  // A container sees its own group as the root of what is mounted, wherever that is.
  write(root / "proc/self/mountinfo", "33 22 0:29 /job /groups rw - cgroup cgroup rw,memory\n");
  write(root / "groups/memory.limit_in_bytes", "5000\n");
  write(root / "groups/memory.usage_in_bytes", "4000\n");
  limits = memory_limits(root);
  ASSERT_EQ(limits.size(), 2u);
  EXPECT_EQ(limits[1].bytes, 1000);
}

TEST(Memory, SizesHaveTheUnitThatFits) {
  EXPECT_EQ(bytes_text(0), "0 bytes");
  EXPECT_EQ(bytes_text(999), "999 bytes");
  EXPECT_EQ(bytes_text(1536), "1.5 KiB");
  EXPECT_EQ(bytes_text(300e6), "286 MiB");
  EXPECT_EQ(bytes_text(17592186044416.0 * 1048576), "16.0 EiB");
}

}  // namespace
}  // namespace sidechannel::experiments
