// What runs need, as it is estimated, against what they take; and the limits that it is held to.

#include "experiments/localization/memory.h"

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
using harness::Words;
using harness::words;

template <class S>
S sized(const std::string& json) {
  S settings;
  apply(parse_json(json, "sized"), "sized", settings);
  settings.check();
  return settings;
}

TEST(Memory, TheArenaOfATrainingStepIsWhatIsEstimated) {
  const Device& device = harness::device();
  for (const char* json : {R"({"length": 64, "depth": 8, "channels": 32, "batch": 8})",
                           R"({"length": 600, "depth": 12, "channels": 64, "batch": 4,
                               "norm": "none"})",
                           R"({"length": 257, "depth": 3, "channels": 16, "batch": 32,
                               "norm": "layer"})",
                           R"({"length": 100, "depth": 2, "channels": 64, "batch": 16})",
                           R"({"length": 64, "depth": 8, "channels": 32, "batch": 8,
                               "padding": "circular"})",
                           R"({"length": 1000, "depth": 20, "channels": 8, "batch": 3,
                               "norm": "group"})"}) {
    const auto settings = sized<LocalizationSettings>(json);
    Localizer network(device, DType::kF32, settings.localizer(), 0);
    LocalizationStep step(network, settings.training_rate(), settings.batch, settings.length, 0);
    for (int i = 0; i < 3; ++i) step();
    const auto taken = static_cast<double>(step.arena_bytes());
    const MemoryPart arena = memory_of(settings, LocalizationPhases::kTrain).at(1).at(1);
    // Arenas grow by doubling: between what is written to and twice that is set aside.
    EXPECT_LE(taken, arena.device + arena.reserve) << json;
    EXPECT_GE(taken, 0.5 * arena.device) << json;
  }
}

#if !defined(__SANITIZE_ADDRESS__)  // which has memory of its own for every byte
double estimated(const MemoryNeed& need) {
  constexpr double kProgram = 32 << 20;
  const MemoryPeak peak = peak_of(need);
  return peak.device + peak.host + kProgram;
}

// Of a run with these settings, which are told to the program, and more flags.
template <class S>
void expect_peak(const std::string& command, const std::string& json, const std::string& more,
                 const std::function<MemoryNeed(const S&)>& estimate) {
  const TemporaryFolder folder;
  Words arguments = words(command + " --threads 1 --device cpu " + more);
  const Json settings = parse_json(json, "sized");
  for (const auto& [name, value] : settings.items()) {
    arguments = harness::with(arguments, {flag_of(name), flag_text(value)});
  }
  const int pid =
      harness::start_program(S::kExperiment, harness::with(arguments, {"--out", folder / "run"}));
  int status = 0;
  struct rusage usage {};
  ASSERT_EQ(wait4(pid, &status, 0, &usage), pid);
  ASSERT_EQ(status, 0);
  const double taken = static_cast<double>(usage.ru_maxrss) * 1024;
  const double expected = estimated(estimate(sized<S>(json)));
  EXPECT_LE(taken, 1.25 * expected) << json;
  EXPECT_GE(taken, 0.5 * expected) << json;
}

TEST(Memory, RunsTakeWhatIsEstimated) {
  using S = LocalizationSettings;
  const auto train = [](const S& s) { return memory_of(s, LocalizationPhases::kTrain); };
  expect_peak<S>("train", R"({"length": 600, "batch": 32})", "--iterations 2", train);
  expect_peak<S>("train",
                 R"({"norm": "none", "length": 16, "depth": 4, "channels": 512, "batch": 1})",
                 "--iterations 1", train);
  expect_peak<S>("run",
                 R"({"length": 16, "depth": 3, "channels": 8, "batch": 2, "probe_width": 2048,
                     "probe_batch": 2, "map_samples": 32})",
                 "--iterations 2 --probe-iterations 1",
                 [](const S& s) { return memory_of(s, LocalizationPhases::kAll); });
  expect_peak<OverlapSettings>("run", R"({"batch": 128, "channels": 128})",
                               "--iterations 2 --test-pairs 2 --overlaps 3,5",
                               [](const OverlapSettings& s) { return memory_of(s); });
}

TEST(Memory, ALimitOnAddressSpaceIsRefusedInWordsBeforeAnythingIsMade) {
  const TemporaryFolder folder;
  struct rlimit before {};
  getrlimit(RLIMIT_AS, &before);
  struct rlimit small = before;
  small.rlim_cur = rlim_t{1} << 30;
  setrlimit(RLIMIT_AS, &small);
  const auto result = run_program(
      "localization", words("run --length 2000 --batch 200 --device cpu --out", {folder / "run"}));
  setrlimit(RLIMIT_AS, &before);
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(harness::begins(result.err, "localization: this needs about "));
  EXPECT_TRUE(harness::has(result.err,
                           "the activations of a training step, and the limit on address space "
                           "(ulimit -v) leaves "));
  EXPECT_TRUE(harness::ends(result.err, "; lower --batch, --length, --channels or --depth\n"));
  EXPECT_FALSE(std::filesystem::exists(folder / "run"));
}
#endif

TEST(Memory, WhatNoMachineHasIsRefusedWithTheFlagsToLower) {
  const TemporaryFolder folder;
  const auto refusal = [&](const std::string& program, const std::string& line,
                           const std::string& what, const std::string& lower) {
    const auto result =
        run_program(program, words(line + " --device cpu --threads 1 --out", {folder / "run"}));
    EXPECT_EQ(result.code, 1);
    EXPECT_TRUE(harness::has(result.err, what));
    EXPECT_TRUE(harness::ends(result.err, "; lower " + lower + "\n"));
    EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1);
  };
  refusal("localization", "run --batch 1000000 --length 1000000",
          "the activations of a training step", "--batch, --length, --channels or --depth");
  refusal("localization", "train --channels 16384 --depth 1000", "the network's weights",
          "--channels, --depth or --kernel-size");
  // Before the training, not after it.
  refusal("localization", "run --probe-width 16384 --depth 1000", "the probes' weights",
          "--probe-width, --channels or --depth");
  refusal("overlap", "run --channels 16384 --depth 1000 --overlaps 1", "the networks' weights",
          "--channels, --depth or --kernel-size");
  refusal("groups", "run --batch 1000000 --length 1000000 --jobs 2",
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
