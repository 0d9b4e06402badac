// Runs of the localization program that are stopped, killed and resumed.

#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "engine/device.h"
#include "engine/io/checkpoint.h"
#include "engine/io/npy.h"
#include "experiments/run/interrupt.h"
#include "models/model_file.h"
#include "models/temporal_unet.h"
#include "tests/harness/program.h"

namespace sidechannel::harness {
namespace {

constexpr int kInterrupted = experiments::kExitInterrupted;

ProgramResult localization(const Words& arguments) {
  return run_program("localization", arguments);
}

// A run of 50 steps that takes milliseconds.
Words tiny(const std::string& command, const std::string& norm, const std::string& out,
           const Words& more = {}) {
  const Words arguments = words(
      command +
          " --length 20 --depth 4 --channels 8 --kernel-size 3 --batch 4 --iterations 50 "
          "--probe-iterations 20 --probe-width 8 --probe-batch 4 --map-samples 128 --log-every 7 "
          "--threads 1 --device cpu" +
          (norm.starts_with("group") ? " --groups 2"
           : norm == "batch"         ? " --samples-per-set 2"
                                     : ""),
      {"--norm", norm, "--out", out});
  return with(arguments, more);
}

// What must be equal, byte by byte, however often a run was stopped. The state's metadata holds
// the time that it took, so of the checkpoint the tensors count.
void expect_same_training(const std::string& a, const std::string& b) {
  expect_same_files(a, b, {"model-initial.safetensors", "model.safetensors", "metrics.jsonl"});
  const SafetensorsFile x = read_safetensors(a + "/checkpoint.safetensors");
  const SafetensorsFile y = read_safetensors(b + "/checkpoint.safetensors");
  ASSERT_EQ(x.tensors.size(), y.tensors.size());
  for (const auto& [name, array] : x.tensors) {
    EXPECT_EQ(array.bytes, y.tensors.at(name).bytes) << name;
  }
}

class Resume : public testing::TestWithParam<const char*> {};

TEST_P(Resume, StoppedAtEveryStepGivesTheSameBytes) {
  const TemporaryFolder folder;
  ASSERT_EQ(localization(tiny("train", GetParam(), folder / "whole")).code, 0);
  for (int stop = 1; stop < 50; ++stop) {
    const std::string out = folder / std::to_string(stop);
    const auto arguments = tiny("train", GetParam(), out);
    const ProgramResult first =
        localization(with(arguments, {"--stop-after", std::to_string(stop)}));
    ASSERT_EQ(first.code, kInterrupted) << first.err;
    const ProgramResult second = localization(arguments);
    ASSERT_EQ(second.code, 0) << second.err;
    expect_same_training(folder / "whole", out);
  }
}

TEST_P(Resume, StoppedInEveryPhaseGivesTheSameResults) {
  const TemporaryFolder folder;
  ASSERT_EQ(localization(tiny("run", GetParam(), folder / "whole")).code, 0);
  const auto arguments = tiny("run", GetParam(), folder / "parts", {"--stop-after", "3"});
  EXPECT_GT(runs_until_done("localization", arguments), 20);
  expect_same_files(folder / "whole", folder / "parts",
                    words("metrics.jsonl model-initial.safetensors model.safetensors "
                          "probes.safetensors localized.npy "
                          "p_max.npy layer_mean.npy layer_variance.npy predictions_mean.npy "
                          "predictions_sample.npy"));
}

INSTANTIATE_TEST_SUITE_P(Norms, Resume,
                         testing::Values("none", "instance", "group", "group_population", "batch"),
                         [](const auto& norm) { return std::string(norm.param); });

// The network before its first step, which the trained one is compared with: it depends on the seed
// alone, and stays as it is however often a run is stopped.
TEST(InitialModel, IsTheNetworkBeforeItsFirstStep) {
  const TemporaryFolder folder;
  const std::string out = folder / "run", initial = out + "/model-initial.safetensors";
  save_model(folder / "expected", Localizer(Device::cpu(1), DType::kF32,
                                            {.depth = 4,
                                             .channels = 8,
                                             .kernel_size = 3,
                                             .norm = NormKind::kBatch,
                                             .samples_per_set = 2},
                                            5));
  const std::string expected = content_of(folder / "expected");
  const Words arguments = tiny("run", "batch", out, {"--seed", "5"});
  const auto stopped = [&](int steps) {
    return localization(with(arguments, {"--stop-after", std::to_string(steps)})).code;
  };
  ASSERT_EQ(stopped(3), kInterrupted);
  EXPECT_EQ(content_of(initial), expected);
  const auto written = std::filesystem::last_write_time(initial);
  ASSERT_EQ(stopped(9), kInterrupted);
  EXPECT_EQ(std::filesystem::last_write_time(initial), written);  // kept, not made again
  std::filesystem::remove(initial);  // as a run of an earlier version has none
  ASSERT_EQ(localization(arguments).code, 0);
  EXPECT_EQ(content_of(initial), expected);
  EXPECT_NE(content_of(out + "/model.safetensors"), expected);

  // Of a network that was given, nobody knows it.
  ASSERT_EQ(localization(tiny("run", "batch", folder / "given", {"--model", initial})).code, 0);
  EXPECT_FALSE(std::filesystem::exists(folder / "given/model-initial.safetensors"));
  EXPECT_EQ(content_of(folder / "given/model.safetensors"), expected);

  save_model(folder / "expected", TemporalUnet(Device::cpu(1), DType::kF32,
                                               {.transition = 1,
                                                .dim = 8,
                                                .multipliers = {1, 2},
                                                .kernel_size = 3,
                                                .steps = 1,
                                                .norm = NormKind::kGroup,
                                                .groups = 2},
                                               5));
  const ProgramResult unet = localization(
      words("train --network unet --probes none --norm group --groups 2 --channels 8 --multipliers "
            "1,2 --kernel-size 3 --length 20 --batch 2 --iterations 2 --device cpu --threads 1 "
            "--seed 5 --out",
            {folder / "unet"}));
  ASSERT_EQ(unet.code, 0) << unet.err;
  EXPECT_EQ(content_of(folder / "unet/model-initial.safetensors"), content_of(folder / "expected"));
}

// A state that cannot be taken gives way to the one before it; but where the machine fails, both
// are as good as they were.
TEST(Checkpoint, OnlyADamagedStateGivesWayToTheOneBefore) {
  const TemporaryFolder folder;
  const std::string path = folder / "checkpoint.safetensors";
  SafetensorsFile state;
  for (const char* step : {"1", "2"}) {
    state.metadata["step"] = step;
    save_checkpoint(path, state);
  }
  std::vector<std::string> taken;
  const auto load = [&](const auto& problem) {
    taken.clear();
    return load_checkpoint(path, [&](const SafetensorsFile& file, const std::string&) {
      taken.push_back(file.metadata.at("step"));
      if (taken.back() == "2") throw problem;
    });
  };
  EXPECT_TRUE(load(Error("damaged")));
  EXPECT_EQ(taken, (std::vector<std::string>{"2", "1"}));
  EXPECT_THROW(load(OutOfMemory("none left")), OutOfMemory);
  EXPECT_EQ(taken, std::vector<std::string>{"2"});
  EXPECT_THROW(load(kernels::CudaError("a fault")), kernels::CudaError);
  EXPECT_EQ(taken, std::vector<std::string>{"2"});
}

// A run whose step 21 has an infinite loss, whether the host looks at each step, rarely, or only
// where a curriculum ends: the state that it keeps is the one before that step, as a run has it
// that was stopped there, with its averages and without a line more in metrics.jsonl.
TEST(ResumeAfterFailure, KeepsTheStateBeforeTheStep) {
  const char* const curriculum =
      " --curriculum-iterations 24 --curriculum-length 12 --curriculum-learning-rate 1e-3";
  struct Case {
    const char* norm;
    std::string more;
  };
  for (const auto& [norm, more] :
       {Case{"instance", "--log-every 1 --checkpoint-every 0"},
        Case{"instance", "--log-every 7 --checkpoint-every 0"},
        Case{"instance", "--log-every 1000 --checkpoint-every 0"},
        Case{"none", "--log-every 1000 --checkpoint-every 4"},
        Case{"batch", "--log-every 7 --checkpoint-every 1"},
        Case{"instance", std::string("--log-every 1000 --checkpoint-every 0") + curriculum}}) {
    SCOPED_TRACE(fmt::format("{} {}", norm, more));
    const TemporaryFolder folder;
    const std::string kept_in = folder / "failed", stopped = folder / "stopped";
    const auto run = [&, norm = norm, more = words(more)](const std::string& out,
                                                          const Words& stop = {}) {
      return localization(tiny("train", norm, out, with(more, stop)));
    };
    ASSERT_EQ(run(kept_in, {"--stop-after", "20"}).code, kInterrupted);
    // Step 20 is made well, but moves the last layer's bias out of all bounds.
    const std::string checkpoint = kept_in + "/checkpoint.safetensors";
    SafetensorsFile state = read_safetensors(checkpoint);
    state.tensors.at("adam.m").as<float>().back() = 1e30f;
    save_checkpoint(checkpoint, state);
    std::filesystem::copy(kept_in, stopped, std::filesystem::copy_options::recursive);

    const ProgramResult failed = run(kept_in);
    EXPECT_EQ(failed.code, 1);
    const std::string said = last_line(failed.err);
    EXPECT_TRUE(begins(said, "localization: step 21: loss inf, gradient norm "));
    EXPECT_TRUE(ends(said, "; stopped before the update, the state is kept in " + kept_in +
                               "/failure.safetensors (try a lower --learning-rate)"));
    ASSERT_EQ(run(stopped, {"--stop-after", "1"}).code, kInterrupted);
    EXPECT_EQ(content_of(kept_in + "/metrics.jsonl"), content_of(stopped + "/metrics.jsonl"));
    const SafetensorsFile kept = read_safetensors(kept_in + "/failure.safetensors");
    const SafetensorsFile expected = read_safetensors(stopped + "/checkpoint.safetensors");
    EXPECT_EQ(kept.metadata.at("step"), "21");
    EXPECT_EQ(kept.metadata.at("metrics_bytes"), expected.metadata.at("metrics_bytes"));
    ASSERT_EQ(kept.tensors.size(), expected.tensors.size());
    for (const auto& [name, array] : expected.tensors) {
      // These move with forward passes, those of steps that are not made included.
      if (name.find(".running_") != std::string::npos) continue;
      EXPECT_EQ(kept.tensors.at(name).bytes, array.bytes) << name;
    }

    // No checkpoint was written of steps that were not made.
    const SafetensorsFile last = read_safetensors(checkpoint);
    EXPECT_LE(std::stoll(last.metadata.at("step")), 21);
    EXPECT_EQ(last.metadata.at("step"),
              std::to_string(last.tensors.at("adam.steps").as<std::int64_t>()[0]));

    // Loading it repeats the step.
    std::filesystem::copy_file(kept_in + "/failure.safetensors", checkpoint,
                               std::filesystem::copy_options::overwrite_existing);
    const ProgramResult again = run(kept_in);
    EXPECT_EQ(again.code, 1);
    EXPECT_EQ(last_line(again.err), said);
  }
}

TEST(ResumeAfterFailure, ProbesStopBeforeTheUpdateToo) {
  const TemporaryFolder folder;
  for (const auto& [log_every, checkpoint_every] :
       {std::pair{"1", "0"}, std::pair{"1000", "0"}, std::pair{"1000", "4"}}) {
    const std::string out = folder / fmt::format("{}-{}", log_every, checkpoint_every);
    const ProgramResult failed =
        localization(tiny("run", "instance", out,
                          {"--probe-learning-rate", "1e30", "--log-every", log_every,
                           "--checkpoint-every", checkpoint_every}));
    EXPECT_EQ(failed.code, 1);
    // Weights of 1e30 are multiplied by each other in the second layer of the first probe.
    const std::string said = last_line(failed.err);
    EXPECT_TRUE(
        begins(said, "localization: probe step 1: gradient norm nan; first layers.1.1 gave "));
    EXPECT_TRUE(ends(said, "]; stopped before the update"));
    // The one step that was made is logged, if each is; nothing after it.
    const std::string lines = content_of(out + "/metrics.jsonl");
    EXPECT_EQ(bool(has(lines, R"({"phase":"probe","step":1,)")), log_every == std::string("1"));
    EXPECT_FALSE(has(lines, R"("phase":"probe","step":2,)"));
    const SafetensorsFile state = read_safetensors(out + "/probes_checkpoint.safetensors");
    EXPECT_EQ(state.metadata.at("step"), "0");
  }
}

TEST(ResumeAfterKill, LeavesALoadableStateAndTheSameEnd) {
  const TemporaryFolder folder;
  const auto arguments = [&](const char* out, const char* checkpoint_every) {
    return tiny("train", "instance", folder / out,
                {"--iterations", "10000", "--checkpoint-every", checkpoint_every});
  };
  ASSERT_EQ(localization(arguments("whole", "1000")).code, 0);
  const int killed = kill_repeatedly("localization", arguments("killed", "1"), 200, [&] {
    EXPECT_NO_THROW(load_checkpoint(folder / "killed" + "/checkpoint.safetensors"));
  });
  RecordProperty("kills", killed);
  EXPECT_GT(killed, 3);
  ASSERT_EQ(localization(arguments("killed", "1000")).code, 0);
  expect_same_training(folder / "whole", folder / "killed");
}

TEST(ResumeAfterSignal, EndsWithAStateAndExitCode75) {
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) {
    const TemporaryFolder folder;
    const std::string checkpoint = folder / "run/checkpoint.safetensors";
    const int pid = start_program(
        "localization", tiny("train", "instance", folder / "run", {"--iterations", "1000000"}));
    // The first state is written before the first step, after the handlers are in place.
    EXPECT_TRUE(wait_for_file(checkpoint));
    kill(pid, signal);
    EXPECT_EQ(wait_for_program(pid), kInterrupted);
    const auto state = load_checkpoint(checkpoint);
    ASSERT_TRUE(state.has_value());
    EXPECT_GE(std::stoll(state->metadata.at("step")), 0);
  }
}

using ResumePolicy = FolderTest;

TEST_F(ResumePolicy, AFinishedRunCostsNothingAndSaysSo) {
  const auto arguments = tiny("run", "none", folder_ / "run");
  ASSERT_EQ(localization(arguments).code, 0);
  const std::string before = content_of(folder_ / "run/summary.json");
  const ProgramResult again = localization(arguments);
  EXPECT_EQ(again.code, 0);
  EXPECT_EQ(again.out, folder_ / "run" + ": done already, see summary.json\n");
  EXPECT_EQ(content_of(folder_ / "run/summary.json"), before);
}

TEST_F(ResumePolicy, AFolderHoldsOneRun) {
  const std::string run = folder_ / "run";
  const auto refused = [&](const Words& more, const std::string& message) {
    expect_refusal(localization(tiny("train", "none", run, more)), "localization", 2, message);
  };
  refused({"--resume", "only"}, run + " holds no run to resume");
  ASSERT_EQ(localization(tiny("train", "none", run)).code, 0);
  refused({"--seed", "1"}, run +
                               " holds a run with other settings (seed is 0 there, 1 here); "
                               "choose another --out");
  refused({"--resume", "never"}, run + " already holds a run; choose another --out");
}

// One network with running averages, evaluated with both kinds of statistics and trained once.
class OtherModel : public testing::TestWithParam<const char*> {};

TEST_P(OtherModel, IsKeptAndNotTrained) {
  const TemporaryFolder folder;
  ASSERT_EQ(localization(tiny("run", GetParam(), folder / "minibatch")).code, 0);
  const std::string model = folder / "minibatch/model.safetensors";
  const std::string out = folder / "population";
  const auto evaluate = [&](const std::string& weights) {
    return localization(
        tiny("run", GetParam(), out, {"--eval-statistics", "population", "--model", weights}));
  };
  const ProgramResult result = evaluate(model);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_FALSE(std::filesystem::exists(out + "/checkpoint.safetensors"));
  expect_same_files(out, folder / "minibatch", {"model.safetensors"});
  EXPECT_NE(content_of(out + "/localized.npy"), "");
  EXPECT_TRUE(has(content_of(out + "/summary.json"), "\"eval_statistics\": \"population\""));
  EXPECT_NE(content_of(out + "/layer_mean.npy"), content_of(folder / "minibatch/layer_mean.npy"));
  EXPECT_EQ(evaluate(model).code, 0);

  ASSERT_EQ(localization(tiny("train", GetParam(), folder / "other", {"--seed", "1"})).code, 0);
  const std::string other = folder / "other/model.safetensors";
  expect_refusal(evaluate(other), "localization", 2,
                 out + " holds a run of another model than " + other + "; choose another --out");
}

INSTANTIATE_TEST_SUITE_P(Norms, OtherModel, testing::Values("batch", "group_population"),
                         [](const auto& norm) { return std::string(norm.param); });

// The rows of a map are those of the probes that there are, and the output's.
TEST(SomeProbes, AreThoseOfTheMap) {
  const TemporaryFolder folder;
  const auto run = [&](const std::string& probes) {
    std::string out = folder / probes;
    const ProgramResult result = localization(tiny("run", "instance", out, {"--probes", probes}));
    EXPECT_EQ(result.code, 0) << result.err;
    return out;
  };
  const std::string all = run("all");
  const std::string last = run("last");
  const std::string none = run("none");
  EXPECT_EQ(read_npy(all + "/localized.npy").shape, (Shape{4, 20}));
  EXPECT_EQ(read_npy(last + "/localized.npy").shape, (Shape{2, 20}));
  EXPECT_EQ(read_npy(none + "/localized.npy").shape, (Shape{1, 20}));
  EXPECT_TRUE(std::filesystem::exists(last + "/probes.safetensors"));
  EXPECT_FALSE(std::filesystem::exists(none + "/probes.safetensors"));
  const auto summary = [](const std::string& out) {
    return nlohmann::ordered_json::parse(content_of(out + "/summary.json"));
  };
  EXPECT_EQ(summary(all)["layers"], (std::vector<int>{1, 2, 3, 4}));
  EXPECT_EQ(summary(last)["layers"], (std::vector<int>{3, 4}));
  EXPECT_EQ(summary(none)["layers"], (std::vector<int>{4}));
  for (const char* key :
       {"localized_fraction", "interior_localized_fraction", "outside_cone_localized_fraction",
        "localization_distances", "unbroken_distances"}) {
    EXPECT_EQ(summary(all)[key].size(), 4u) << key;
    EXPECT_EQ(summary(last)[key].size(), 2u) << key;
    EXPECT_EQ(summary(none)[key].size(), 1u) << key;
  }
  // The output does not know of the probes.
  for (const char* key : {"final_loss", "interior_slope", "localization_distance"}) {
    EXPECT_EQ(summary(all)[key], summary(none)[key]) << key;
    EXPECT_EQ(summary(all)[key], summary(last)[key]) << key;
  }
  EXPECT_EQ(content_of(all + "/predictions_mean.npy"), content_of(none + "/predictions_mean.npy"));
}

TEST_F(ResumePolicy, ADamagedStateGivesWayToTheOneBefore) {
  const auto arguments = tiny("train", "instance", folder_ / "run");
  ASSERT_EQ(localization(tiny("train", "instance", folder_ / "whole")).code, 0);
  ASSERT_EQ(localization(with(arguments, {"--stop-after", "20"})).code, kInterrupted);
  const std::string state = folder_ / "run/checkpoint.safetensors";
  std::string bytes = content_of(state);
  bytes[bytes.size() / 2] = static_cast<char>(~bytes[bytes.size() / 2]);
  std::ofstream(state, std::ios::binary) << bytes;
  const ProgramResult resumed = localization(arguments);
  EXPECT_EQ(resumed.code, 0);
  EXPECT_TRUE(has(resumed.err, "continuing from " + state + ".previous"));
  expect_same_training(folder_ / "whole", folder_ / "run");
}

TEST_F(ResumePolicy, OneProcessWorksInAFolder) {
  const auto arguments = tiny("train", "none", folder_ / "run", {"--iterations", "1000000"});
  const int pid = start_program("localization", arguments);
  EXPECT_TRUE(wait_for_file(folder_ / "run/checkpoint.safetensors"));
  expect_refusal(localization(arguments), "localization", 1,
                 folder_ / "run" + ": another process is working in this folder");
  kill(pid, SIGTERM);
  EXPECT_EQ(wait_for_program(pid), kInterrupted);
}

}  // namespace
}  // namespace sidechannel::harness
