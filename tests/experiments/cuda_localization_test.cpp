// The experiments on a GPU or its emulation: the same results as on the CPU, resumed exactly, and a
// host that stays out of the way.

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "engine/io/checkpoint.h"
#include "engine/io/npy.h"
#include "experiments/localization/probing.h"
#include "experiments/localization/training.h"
#include "experiments/run/interrupt.h"
#include "tests/harness/cuda_check.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

using harness::content_of;
using harness::has;
using harness::ProgramResult;
using harness::run_program;
using harness::TemporaryFolder;
using harness::words;
using Json = nlohmann::ordered_json;

class CudaLocalization : public harness::CudaTest {};

LocalizerConfig small_network(const std::string& norm) {
  return {
      .depth = 4, .channels = 8, .norm = norm_kind_from(norm), .groups = 2, .samples_per_set = 2};
}

std::vector<double> loss_curve(const Device& device, const std::string& norm, int steps) {
  Localizer network(device, DType::kF32, small_network(norm), 1);
  LocalizationStep step(network, LearningRate{2e-3}, 4, 24, 1);
  std::vector<double> losses;
  for (int i = 0; i < steps; ++i) {
    step();
    losses.push_back(step.loss());
    step.clear_measures();
  }
  return losses;
}

TEST_F(CudaLocalization, LosesAsTheCpuDoesForAHundredSteps) {
  for (const char* norm : {"none", "instance", "batch"}) {
    const auto cpu = loss_curve(harness::device(), norm, 100);
    const auto cuda = loss_curve(harness::cuda_device(), norm, 100);
    for (std::size_t i = 0; i < cpu.size(); ++i)
      ASSERT_NEAR(cuda[i], cpu[i], 1e-4 * cpu[i]) << norm << ", step " << i;
  }
}

// In the steady state a step is one graph: nothing is allocated and nothing is waited for.
TEST_F(CudaLocalization, AStepIsOneLaunch) {
  for (const char* norm : {"instance", "batch"}) {
    const Device device = Device::cuda(0, Precision::kFp32);
    const kernels::CudaQueue& queue = device.cuda_queue();
    if (queue.blocking()) GTEST_SKIP() << "CUDA_LAUNCH_BLOCKING=1: nothing is recorded";
    Localizer network(device, DType::kF32, small_network(norm), 1);
    LocalizationStep step(network, LearningRate{2e-3}, 4, 24, 1);
    for (int i = 0; i < 3; ++i) step();
    const auto before = queue.counters();
    for (int i = 0; i < 10; ++i) step();
    const auto after = queue.counters();
    EXPECT_EQ(after.graph_launches - before.graph_launches, 10);
    EXPECT_EQ(after.launches, before.launches);
    EXPECT_EQ(after.allocations, before.allocations);
    EXPECT_EQ(after.synchronizations, before.synchronizations);
    EXPECT_EQ(step.adam().steps(), 13);
  }
}

// Layers in a row are a launch each and direction, and few more: as many as the paper's network
// has.
TEST_F(CudaLocalization, AStepOfThePapersDepthIsFewLaunches) {
  for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
    for (const char* norm : {"none", "instance", "batch"}) {
      const Device device = Device::cuda(0, precision);
      LocalizerConfig config = small_network(norm);
      config.depth = 32;
      config.channels = 32;
      Localizer network(device, DType::kF32, config, 1);
      LocalizationStep step(network, LearningRate{2e-3}, 2, 24, 1);
      const std::int64_t before = device.cuda_queue().counters().launches;
      step();
      EXPECT_LE(device.cuda_queue().counters().launches - before, 86)
          << norm << " " << name_of(precision);
    }
  }
}

// All probes are computed at once: a step of their training, and a batch of the map, are as many
// launches for five probes as for one.
TEST_F(CudaLocalization, ProbesAreFewLaunches) {
  std::vector<std::int64_t> steps, batches;
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1);  // nothing is recorded, every launch is counted
  const Device device = Device::cuda(0, Precision::kTf32);
  unsetenv("CUDA_LAUNCH_BLOCKING");
  const auto launches = [&](const auto& action) {
    const std::int64_t before = device.cuda_queue().counters().launches;
    action();
    return device.cuda_queue().counters().launches - before;
  };
  for (const char* probed : {"all", "last"}) {
    std::vector<std::int64_t> training, mapping;
    for (const std::int64_t count : {1, 2}) {
      const TemporaryFolder folder;
      LocalizationSettings settings;
      settings.length = 12;
      settings.depth = 6;
      settings.channels = 32;
      settings.probes = probed;
      settings.probe_batch = 2;
      settings.probe_iterations = count;
      settings.map_samples = 32 * count;
      const Localizer network(device, DType::kF32, settings.localizer(), 1);
      Probes probes(settings, device);
      RunFolder run(folder / "run", Json::object(), device, Resume::kAuto);
      training.push_back(launches([&] { train_probes(settings, network, probes, run); }));
      mapping.push_back(launches([&] { make_map(settings, network, probes, run); }));
    }
    steps.push_back(training[1] - training[0]);
    batches.push_back(mapping[1] - mapping[0]);
  }
  EXPECT_EQ(steps[0], steps[1]);
  EXPECT_LE(steps[0], 30);
  // The moments' count of several streams has no launch of its own for one.
  EXPECT_LE(batches[0], batches[1] + 2);
  EXPECT_LE(batches[0], 24);
}

// Launches that overlap compute what they do one after the other, in graphs too.
TEST_F(CudaLocalization, LaunchesMayOverlap) {
  std::vector<std::vector<HostArray>> states;
  for (const char* overlap : {"off", "on"}) {
    setenv("SIDECHANNEL_OVERLAP", overlap, 1);
    const Device device = Device::cuda(0, Precision::kTf32);
    unsetenv("SIDECHANNEL_OVERLAP");
    const bool wanted = overlap == std::string("on");
    EXPECT_EQ(device.cuda_queue().overlaps(),
              wanted && device.cuda_queue().info().compute_capability >= 90);
    LocalizerConfig config = small_network("batch");
    config.channels = 32;
    Localizer network(device, DType::kF32, config, 1);
    LocalizationStep step(network, LearningRate{2e-3}, 4, 24, 1);
    for (int i = 0; i < 8; ++i) step();
    states.emplace_back();
    for (const Parameter& parameter : network.parameters().parameters()) {
      states.back().push_back(parameter.value.to_host());
    }
  }
  for (std::size_t i = 0; i < states[0].size(); ++i) {
    EXPECT_EQ(states[0][i].bytes, states[1][i].bytes);
  }
}

// A replayed step computes what an eager one does, to the bit.
TEST_F(CudaLocalization, ReplayedStepsAreEagerSteps) {
  std::vector<std::vector<HostArray>> states;
  for (const char* blocking : {"0", "1"}) {
    setenv("CUDA_LAUNCH_BLOCKING", blocking, 1);  // 1: nothing is recorded
    const Device device = Device::cuda(0, Precision::kTf32);
    unsetenv("CUDA_LAUNCH_BLOCKING");
    Localizer network(device, DType::kF32, small_network("instance"), 1);
    LocalizationStep step(network, LearningRate{2e-3}, 4, 24, 1);
    for (int i = 0; i < 8; ++i) step();
    std::vector<HostArray> state{step.outputs().mean()};
    for (const Parameter& p : network.parameters().parameters()) state.push_back(p.value.to_host());
    states.push_back(state);
  }
  for (std::size_t i = 0; i < states[0].size(); ++i)
    EXPECT_EQ(states[0][i].bytes, states[1][i].bytes) << i;
}

ProgramResult localization(const std::string& device, const std::string& norm,
                           const std::string& out, const std::string& more = "") {
  const std::string sets = norm == "batch" ? " --samples-per-set 2 " : " ";
  return run_program(
      "localization",
      words("run --preset demo --length 24 --depth 4 --channels 8 --batch 4 --iterations 60 "
            "--log-every 20 --probe-width 8 --probe-batch 4 --probe-iterations 20 "
            "--map-samples 100 --threads 1 --precision fp32 --device " +
                device + " --norm " + norm + sets + more,
            {"--out", out}));
}

TEST_F(CudaLocalization, AskForMoreMemoryThanTheGpuHasAndItIsRefusedBeforeAnythingIsMade) {
  const TemporaryFolder folder;
  const auto result = run_program(
      "localization",
      words("train --device cuda --length 1000000 --batch 1000000 --out", {folder / "run"}));
  EXPECT_EQ(result.code, 1);
  const std::string gpu = Device::cuda(0, Precision::kFp32).description();
  EXPECT_TRUE(
      has(result.err, "most of it for the activations of a training step, and " + gpu + " has "));
  EXPECT_FALSE(std::filesystem::exists(folder / "run"));
}

Json summary_of(const std::string& folder) {
  return Json::parse(content_of(folder + "/summary.json"));
}

TEST_F(CudaLocalization, ARunGivesWhatTheCpuGives) {
  for (const char* norm : {"instance", "batch"}) {
    SCOPED_TRACE(norm);
    const TemporaryFolder folder;
    for (const char* device : {"cpu", "cuda"}) {
      const auto result = localization(device, norm, folder / device);
      ASSERT_EQ(result.code, 0) << result.err;
    }
    const Json cpu = summary_of(folder / "cpu");
    const Json cuda = summary_of(folder / "cuda");
    // 60 steps of training multiply the difference of one rounding; they stay near.
    EXPECT_NEAR(cuda["final_loss"], cpu["final_loss"], 1e-3 * cpu["final_loss"].get<double>());
    EXPECT_NEAR(cuda["interior_slope"], cpu["interior_slope"], 1e-3);
    const HostArray a = read_npy(folder / "cpu/layer_mean.npy");
    const HostArray b = read_npy(folder / "cuda/layer_mean.npy");
    for (std::size_t i = 0; i < a.as<double>().size(); ++i)
      ASSERT_NEAR(a.as<double>()[i], b.as<double>()[i], 1e-3) << i;
    const Json config = Json::parse(content_of(folder / "cuda/config.json"));
    EXPECT_EQ(config["device"], "cuda:0");
    EXPECT_EQ(config["gpu"], harness::cuda_queue().info().name);
  }
}

TEST_F(CudaLocalization, ARunIsResumedToTheByte) {
  const TemporaryFolder folder;
  ASSERT_EQ(localization("cuda", "instance", folder / "whole").code, 0);
  int code = kExitInterrupted;
  for (int i = 0; i < 20 && code == kExitInterrupted; ++i)
    code = localization("cuda", "instance", folder / "pieces", "--stop-after 17").code;
  ASSERT_EQ(code, 0);
  harness::expect_same_files(folder / "whole", folder / "pieces",
                             words("model.safetensors probes.safetensors metrics.jsonl "
                                   "layer_mean.npy localized.npy predictions_sample.npy"));
}

TEST_F(CudaLocalization, ALossThatIsNotFiniteStopsTheRun) {
  const TemporaryFolder folder;
  const auto result = localization("cuda", "none", folder / "run", "--learning-rate 1e30");
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(has(result.err, "stopped before the update"));
  // The step is repeated with a look at every layer.
  EXPECT_TRUE(has(result.err, "; first "));
  EXPECT_TRUE(std::filesystem::exists(folder / "run/failure.safetensors"));
}

}  // namespace
}  // namespace sidechannel::experiments
