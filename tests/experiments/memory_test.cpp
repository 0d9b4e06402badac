// What runs need, as it is estimated, against what they take; and the limits that it is held to.

#include "experiments/localization/memory.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <fstream>

#include "engine/io/npy.h"
#include "experiments/diffusion/settings.h"
#include "experiments/leak/memory.h"
#include "experiments/leak/settings.h"
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
                               "norm": "group"})",
                           R"({"network": "unet", "probes": "none", "length": 128, "channels": 16,
                               "batch": 4, "norm": "group", "groups": 4})",
                           R"({"network": "unet", "probes": "none", "length": 64, "channels": 8,
                               "multipliers": "1,4,8", "kernel_size": 3, "batch": 8,
                               "norm": "none"})",
                           R"({"network": "unet", "probes": "none", "length": 512, "channels": 4,
                               "multipliers": "1", "batch": 3, "norm": "position"})"}) {
    const auto settings = sized<LocalizationSettings>(json);
    const std::unique_ptr<Network> network = settings.make_network(device);
    LocalizationStep step(*network, settings.training_rate(), settings.batch, settings.length, 0);
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

// The most that a program of this build took, from its start to its end.
double taken_by(const std::string& program, const Words& arguments) {
  const int pid = harness::start_program(
      program, harness::with(arguments, {"--threads", "1", "--device", "cpu"}));
  int status = 0;
  struct rusage usage {};
  EXPECT_EQ(wait4(pid, &status, 0, &usage), pid);
  EXPECT_EQ(status, 0);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

void expect_taken(double taken, const MemoryNeed& need, const std::string& of) {
  const double expected = estimated(need);
  EXPECT_LE(taken, 1.25 * expected) << of;
  EXPECT_GE(taken, 0.5 * expected) << of;
}

// Of a run with these settings, which are told to the program, and more flags.
template <class S>
void expect_peak(const std::string& command, const std::string& json, const std::string& more,
                 const std::function<MemoryNeed(const S&)>& estimate) {
  const TemporaryFolder folder;
  Words arguments = words(command + " " + more, {"--out", folder / "run"});
  const Json settings = parse_json(json, "sized");
  for (const auto& [name, value] : settings.items()) {
    arguments = harness::with(arguments, {flag_of(name), flag_text(value)});
  }
  expect_taken(taken_by(S::kExperiment, arguments), estimate(sized<S>(json)), json);
}

TEST(Memory, RunsTakeWhatIsEstimated) {
  using S = LocalizationSettings;
  const auto train = [](const S& s) { return memory_of(s, LocalizationPhases::kTrain); };
  const auto all = [](const S& s) { return memory_of(s, LocalizationPhases::kAll); };
  expect_peak<S>("train", R"({"length": 600, "batch": 32})", "--iterations 2", train);
  expect_peak<S>("train",
                 R"({"norm": "none", "length": 16, "depth": 4, "channels": 512, "batch": 1})",
                 "--iterations 1", train);
  expect_peak<S>("run",
                 R"({"length": 16, "depth": 3, "channels": 8, "batch": 2, "probe_width": 2048,
                     "probe_batch": 2, "map_samples": 32})",
                 "--iterations 2 --probe-iterations 1", all);
  expect_peak<OverlapSettings>("run", R"({"batch": 128, "channels": 128})",
                               "--iterations 2 --test-pairs 2 --overlaps 3,5",
                               [](const OverlapSettings& s) { return memory_of(s); });
}

TEST(Memory, UnetsTakeWhatIsEstimated) {
  using S = LocalizationSettings;
  const auto train = [](const S& s) { return memory_of(s, LocalizationPhases::kTrain); };
  // Most of it for activations, for weights, and for the map.
  expect_peak<S>("train",
                 R"({"network": "unet", "probes": "none", "length": 256, "channels": 32,
                     "norm": "group", "groups": 4, "batch": 16})",
                 "--iterations 2", train);
  expect_peak<S>("train",
                 R"({"network": "unet", "probes": "none", "length": 8, "channels": 64,
                     "multipliers": "1,8", "norm": "none", "batch": 1})",
                 "--iterations 1", train);
  expect_peak<S>("run",
                 R"({"network": "unet", "probes": "none", "length": 512, "channels": 32,
                     "multipliers": "1", "norm": "position", "batch": 1, "map_samples": 64})",
                 "--iterations 1",
                 [](const S& s) { return memory_of(s, LocalizationPhases::kAll); });
}

TEST(Memory, PlannersTakeWhatIsEstimated) {
  using S = DiffusionSettings;
  const auto estimate = [](const S& s) { return memory_of(s); };
  const std::string little = "--iterations 2 --steps 2 --leak-outputs 1 --leak-inputs 1 ";
  // Most of it for a training step, for plans, for the data, and for the leak's rows.
  expect_peak<S>(
      "run",
      R"({"multipliers": "1,2", "kernel_size": 3, "side": 3, "corridors": 5, "steps_per_corridor": 51, "walks": 4,
                     "walk_corridors": 12, "dim": 32, "groups": 4, "batch": 32, "pairs": 1, "plans": 1})",
      little, estimate);
  expect_peak<S>(
      "run",
      R"({"multipliers": "1,2", "kernel_size": 3, "side": 3, "corridors": 5, "steps_per_corridor": 13, "walks": 4,
                     "walk_corridors": 12, "dim": 16, "groups": 4, "batch": 1, "pairs": 32, "plans": 8})",
      little, estimate);
  expect_peak<S>(
      "run",
      R"({"multipliers": "1,2", "kernel_size": 3, "side": 4, "corridors": 3, "steps_per_corridor": 3, "walks": 500,
                     "walk_corridors": 1000, "dim": 4, "groups": 1, "batch": 1, "pairs": 1,
                     "plans": 1})",
      little, estimate);
  expect_peak<S>(
      "run",
      R"({"multipliers": "1,2", "kernel_size": 3, "side": 3, "corridors": 5, "steps_per_corridor": 51, "walks": 4,
                     "walk_corridors": 12, "dim": 32, "groups": 4, "batch": 1, "pairs": 1, "plans": 1,
                     "leak_outputs": 16})",
      "--iterations 2 --steps 1 --leak-inputs 1", estimate);
}

TEST(Memory, MeasuresTakeWhatIsEstimated) {
  using S = LeakSettings;
  const auto estimate = [](LeakSize size) {
    return [size](const S& s) mutable {
      size.length = s.length;
      size.channels = s.transition;
      size.rows = s.outputs * s.transition;
      size.samples = s.norm == "batch" ? s.samples_per_set : 1;
      size.dtype = s.dtype == "f32" ? DType::kF32 : DType::kF64;
      if (s.pad > 0) size.longest = s.length + s.pad;
      return memory_of(s.unet(), size);
    };
  };
  // Most of it for activations, in both types; for the Jacobian; for weights; for what is padded.
  expect_peak<S>("measure",
                 R"({"length": 512, "dim": 16, "multipliers": "1,2", "transition": 2,
                     "outputs": 8})",
                 "--inputs 1 --no-layers", estimate({}));
  expect_peak<S>("measure",
                 R"({"length": 512, "dim": 16, "multipliers": "1,2", "transition": 2,
                     "outputs": 8, "norm": "batch", "samples_per_set": 3, "dtype": "f32"})",
                 "--inputs 1 --no-layers", estimate({}));
  expect_peak<S>("measure",
                 R"({"length": 256, "dim": 4, "multipliers": "1", "kernel_size": 1,
                     "transition": 32, "outputs": 32, "norm": "none"})",
                 "--inputs 1", estimate({}));
  expect_peak<S>("measure",
                 R"({"length": 8, "dim": 64, "multipliers": "1,8", "kernel_size": 3,
                     "transition": 1, "outputs": 1, "norm": "none"})",
                 "--inputs 1", estimate({}));
  expect_peak<S>("measure",
                 R"({"length": 64, "dim": 8, "multipliers": "1,2", "kernel_size": 3,
                     "transition": 1, "outputs": 1, "pad": 50000})",
                 "--inputs 1 --no-layers", estimate({}));

  // A model of somebody's, and long input.
  const TemporaryFolder folder;
  const LocalizerConfig network{.depth = 8, .channels = 32, .norm = NormKind::kInstance};
  save_model(folder / "m", Localizer(Device::cpu(1), DType::kF32, network, 0));
  HostArray x(DType::kF32, {2, 20'000});
  for (std::size_t i = 0; i < x.as<float>().size(); ++i) {
    x.as<float>()[i] = static_cast<float>(i * i % 101) / 50 - 1;
  }
  write_npy(folder / "x.npy", x);
  expect_taken(
      taken_by("leak", words("measure --no-layers --outputs 1 --model",
                             {folder / "m", "--input", folder / "x.npy"})),
      memory_of(
          network,
          {.inputs = 2, .length = 20'000, .rows = 1, .given_model = true, .given_inputs = true}),
      "a localizer");
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
  refusal("sweep", "run --preset groups/demo --set batch=1000000 --set length=1000000 --jobs 2",
          "the activations of a training step", "--jobs, --batch, --length, --channels or --depth");
  // Of the largest of its cells.
  refusal("sweep", "run --program overlap --over depth=4,1000 --set channels=16384 --jobs 2",
          "the networks' weights", "--jobs, --channels, --depth or --kernel-size");
  refusal("localization", "run --network unet --probes none --batch 1000000 --length 1000000",
          "the activations of a training step", "--batch, --length, --channels or --multipliers");
  refusal("localization", "train --network unet --probes none --channels 16384 --multipliers 1,64",
          "the network's weights", "--channels, --multipliers or --kernel-size");
  refusal("diffusion", "run --walks 1000000 --walk-corridors 4096 --steps-per-corridor 1024",
          "the walks", "--walks or --walk-corridors");
  refusal("leak", "measure --length 1000000 --outputs 1000000", "the Jacobian",
          "--outputs or --length");
  refusal("leak", "measure --length 1000000 --dim 512", "the activations of the Jacobian's rows",
          "--length, --samples-per-set, --dim or --multipliers");
  refusal("leak", "measure --length 1024 --norm batch --samples-per-set 1000000",
          "the activations of the Jacobian's rows",
          "--length, --samples-per-set, --dim or --multipliers");
  refusal("leak", "measure --dim 16384", "the network's weights",
          "--dim, --multipliers or --kernel-size");
  refusal("leak", "measure --length 100000 --inputs 1000000", "the inputs", "--inputs or --length");
  EXPECT_FALSE(std::filesystem::exists(folder / "run" + "/config.json"));
  EXPECT_FALSE(std::filesystem::exists(folder / "run"));
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
