// Runs that become longer than they were to be, and runs that begin with the weights of a file: the
// bytes of a run that was so from the start, or words that say why not.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "engine/io/checkpoint.h"
#include "engine/io/json.h"
#include "engine/ops.h"
#include "experiments/localization/training.h"
#include "experiments/run/interrupt.h"
#include "experiments/run/run_folder.h"
#include "models/model_file.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;
using harness::content_of;
using harness::expect_refusal;
using harness::expect_same_files;
using harness::has;
using harness::ProgramResult;
using harness::run_program;
using harness::Words;
using harness::words;

constexpr int kInterrupted = kExitInterrupted;

Json json_in(const std::string& path) {
  return Json::parse(content_of(path), nullptr, false);
}

Json without_seconds(Json json) {
  json.erase("seconds");
  for (Json& point : json.contains("points") ? json["points"] : json) {
    if (point.is_object()) point.erase("seconds");
  }
  return json;
}

class Grown : public harness::FolderTest {
 protected:
  std::string path(const std::string& name) const { return folder_ / name; }
  static void expect_same_states(const std::string& a, const std::string& b) {
    const TensorMap mine = read_safetensors(a).tensors, theirs = read_safetensors(b).tensors;
    ASSERT_EQ(mine.size(), theirs.size());
    for (const auto& [name, array] : mine) EXPECT_EQ(array.bytes, theirs.at(name).bytes) << name;
  }
};

// --- localization -------------------------------------------------------------------------------

// Lines of metrics.jsonl after 7, 14, ... steps, and after the last, which is none of these.
class LocalizationGrowth : public Grown {
 protected:
  static constexpr const char* kTiny =
      " --length 20 --depth 4 --channels 8 --kernel-size 3 --batch 4 --iterations 50 "
      "--probe-iterations 20 --probe-width 8 --probe-batch 4 --map-samples 128 --log-every 7 "
      "--threads 1 --device cpu --schedule constant --probe-schedule constant --norm batch "
      "--samples-per-set 2 --out ";
  Words line(const std::string& name, const std::string& more,
             const std::string& command = "run") const {
    return words(command + kTiny + path(name) + " " + more);
  }
  ProgramResult run(const std::string& name, const std::string& more = "",
                    const std::string& command = "run") const {
    return run_program("localization", line(name, more, command));
  }
  void done(const std::string& name, const std::string& more = "") const {
    const ProgramResult result = run(name, more);
    ASSERT_EQ(result.code, 0) << result.err;
  }
  void refused(const std::string& name, const std::string& more, const std::string& message,
               const std::string& command = "run") const {
    const std::string before = content_of(path(name + "/config.json"));
    expect_refusal(run(name, more, command), "localization", 2,
                   fmt::format("{} holds a run {}; choose another --out", path(name), message));
    EXPECT_EQ(content_of(path(name + "/config.json")), before);
  }
  void expect_same(const std::string& a, const std::string& b) const {
    expect_same_files(path(a), path(b),
                      words("metrics.jsonl model-initial.safetensors model.safetensors "
                            "probes.safetensors localized.npy p_max.npy layer_mean.npy "
                            "layer_variance.npy predictions_mean.npy predictions_sample.npy"));
    EXPECT_EQ(without_seconds(json_in(path(a + "/summary.json"))),
              without_seconds(json_in(path(b + "/summary.json"))));
    for (const char* state : {"checkpoint.safetensors", "probes_checkpoint.safetensors",
                              "map_checkpoint.safetensors"}) {
      expect_same_states(path(a + "/" + state), path(b + "/" + state));
    }
  }
  // Grows a copy of the run `from`, whole and with interruptions: to the bytes of one that was so
  // from the start.
  void grows(const std::string& from, const std::string& more) const {
    fs::remove_all(path("longer"));
    const auto copy = [&](const std::string& name) {
      fs::remove_all(path(name));
      fs::copy(path(from), path(name), fs::copy_options::recursive);
      return name;
    };
    done("longer", more);
    done(copy("grown"), more);
    expect_same("longer", "grown");
    harness::runs_until_done("localization", line(copy("parts"), more + " --stop-after 4"));
    expect_same("longer", "parts");
    harness::kill_repeatedly("localization", line(copy("killed"), more + " --checkpoint-every 1"),
                             25);
    done("killed", more);
    expect_same("longer", "killed");
  }
};

TEST_F(LocalizationGrowth, AFinishedRunGrows) {
  done("short");
  grows("short", "--iterations 80");
  expect_same_files(path("longer"), path("grown"), {"config.json"});
  // What there was is still there.
  for (const char* file :
       {"model.safetensors", "probes.safetensors", "summary.json", "metrics.jsonl"}) {
    EXPECT_EQ(content_of(path("grown/") + file + ".previous"), content_of(path("short/") + file))
        << file;
  }
  // And more than once.
  done("twice", "--iterations 84");
  done("grown", "--iterations 84");
  expect_same("twice", "grown");
  EXPECT_TRUE(has(run("grown", "--iterations 84").out, ": done already, see summary.json\n"));
  refused("grown", "", "with other settings (iterations is 84 there, 50 here)");
}

TEST_F(LocalizationGrowth, SaysSo) {
  done("run");
  const std::string grows = path("run") + ": --iterations grows from 50 to 56\n";
  EXPECT_EQ(run("run", "--iterations 56 --check").code, 0);
  EXPECT_TRUE(harness::begins(run("run", "--iterations 56 --stop-after 1").err, grows));
  const ProgramResult resumed = run("run", "--iterations 56");
  EXPECT_FALSE(has(resumed.err, grows));
  EXPECT_TRUE(has(resumed.err, "train: resumed at step 51"));
}

TEST_F(LocalizationGrowth, SoDoesOneThatIsNotFinished) {
  for (const Words& before : {Words{}, Words{"train"}, Words{"train", "probe"}}) {
    SCOPED_TRACE(before.size());
    fs::remove_all(path("short"));
    for (const std::string& command : before) ASSERT_EQ(run("short", "", command).code, 0);
    ASSERT_EQ(run("short", "--stop-after 2").code, kInterrupted);
    grows("short", "--iterations 61");
  }
}

TEST_F(LocalizationGrowth, ACurriculumStaysAsItIs) {
  const std::string curriculum =
      " --curriculum-iterations 10 --curriculum-length 8 --curriculum-learning-rate 1e-3 "
      "--warmup 30";
  done("short", curriculum);
  grows("short", "--iterations 66" + curriculum);
  fs::remove_all(path("short"));
  ASSERT_EQ(run("short", "--schedule tail --stop-after 5" + curriculum).code, kInterrupted);
  grows("short", "--schedule tail --iterations 66" + curriculum);
}

TEST_F(LocalizationGrowth, ProbesGrowAlone) {
  done("short");
  const auto trained = fs::last_write_time(path("short/checkpoint.safetensors"));
  grows("short", "--probe-iterations 33");
  const ProgramResult result = run("short", "--probe-iterations 33");
  ASSERT_EQ(result.code, 0);
  EXPECT_TRUE(has(result.err, "probe: resumed at step 20"));
  EXPECT_EQ(fs::last_write_time(path("short/checkpoint.safetensors")), trained);
  expect_same("longer", "short");
}

TEST_F(LocalizationGrowth, ProbesWhoseRateHasFallenAreMadeAnew) {
  done("short", "--probe-schedule tail");
  grows("short", "--probe-schedule tail --probe-iterations 33");
}

TEST_F(LocalizationGrowth, BothMayGrow) {
  done("short");
  grows("short", "--iterations 57 --probe-iterations 21");
  done("short", "--probe-iterations 21");
  grows("short", "--iterations 57 --probe-iterations 21");
}

TEST_F(LocalizationGrowth, CommandByCommand) {
  const std::string more = "--iterations 80 --probe-iterations 33";
  const auto each = [&](const std::string& name) {
    for (const char* command : {"train", "probe", "map"}) {
      EXPECT_EQ(run(name, more, command).code, 0) << command;
    }
  };
  each("whole");
  done("run");
  refused("run", more, "with other settings (iterations is 50 there, 80 here)", "probe");
  refused("run", "--probe-iterations 33",
          "with other settings (probe_iterations is 20 there, 33 here)", "map");
  ASSERT_EQ(run("run", more + " --stop-after 9", "train").code, kInterrupted);
  // The shorter one's are not taken for its own.
  for (const auto& [command, missing] :
       {std::pair{"probe",
                  "model.safetensors yet; run `localization train` first, or give --model"},
        {"map", "model.safetensors yet; run `localization train` first, or give --model"}}) {
    expect_refusal(run("run", more, command), "localization", 1,
                   path("run") + " has no " + missing);
  }
  each("run");
  expect_same("whole", "run");
}

TEST_F(LocalizationGrowth, ATailThatHasBegunIsRefused) {
  done("short", "--schedule tail");
  refused("short", "--schedule tail --iterations 80",
          "of --iterations 50 that cannot grow to 80: its step 50 had a lower learning rate than a "
          "longer one's has (--schedule tail)");
  // 70 % of 50 are 35.
  for (const int made : {34, 35}) {
    fs::remove_all(path("short"));
    ASSERT_EQ(run("short", fmt::format("--schedule tail --stop-after {}", made)).code,
              kInterrupted);
    grows("short", "--schedule tail --iterations 80");
  }
  fs::remove_all(path("short"));
  ASSERT_EQ(run("short", "--schedule tail --stop-after 36").code, kInterrupted);
  refused("short", "--schedule tail --iterations 80",
          "of --iterations 50 that cannot grow to 80: its step 36 had a lower learning rate than a "
          "longer one's has (--schedule tail)");
  done("short", "--schedule tail");  // it is as it was
}

TEST_F(LocalizationGrowth, WhatElseIsRefused) {
  done("run");
  refused("run", "--iterations 80 --seed 1 --batch 2",
          "with other settings (batch is 4 there, 2 here; 1 more differ)");
  refused("run", "--iterations 49", "with other settings (iterations is 50 there, 49 here)");
  done("given", "--model " + path("run/model.safetensors"));
  refused("given", "--iterations 80", "with other settings (iterations is 50 there, 80 here)");
  done("given", "--probe-iterations 33");
}

// Killed while it grows, before config.json said so: the shorter run is there.
TEST_F(LocalizationGrowth, UntilItHasGrownItIsTheShorterOne) {
  done("short");
  fs::copy(path("short"), path("run"), fs::copy_options::recursive);
  for (const char* name : {"summary.json", "model.safetensors", "probes.safetensors"}) {
    fs::rename(path("run/") + name, previous_of(path("run/") + name));
    fs::copy(path("run"), path(std::string("before ") + name), fs::copy_options::recursive);
    done("run");
    expect_same("short", "run");
    fs::remove_all(path("run"));
    fs::rename(path(std::string("before ") + name), path("run"));
  }
  grows("run", "--iterations 80");
}

// An earlier version's last state has no averages of the steps since the last but one line.
TEST_F(LocalizationGrowth, AnEarlierVersionsRunStaysAsItIs) {
  done("run");
  const std::string file = path("run/checkpoint.safetensors");
  SafetensorsFile state = read_safetensors(file);
  EXPECT_EQ(state.tensors.at("window.loss.count").as<std::int64_t>()[0], 1);
  state.metadata.erase("last_line_bytes");
  for (auto& [name, array] : state.tensors) {
    if (name.starts_with("window.")) std::ranges::fill(array.bytes, std::byte{0});
  }
  write_safetensors(file, state);
  fs::remove(path("run/summary.json"));
  done("run");
  refused("run", "--iterations 80",
          "of --iterations 50 that cannot grow to 80: " + file +
              ", by an earlier version, lacks what a longer one goes on with");
}

// --- overlap and diffusion ----------------------------------------------------------------------

class OverlapGrowth : public Grown {
 protected:
  Words line(const std::string& name, const std::string& more,
             const std::string& command = "run") const {
    return words(command +
                 " --depth 4 --channels 8 --kernel-size 3 --batch 4 --iterations 40 --test-pairs "
                 "50 --log-every 7 --overlaps 0:9:3 --threads 1 --device cpu --out " +
                 path(name) + " " + more);
  }
  ProgramResult run(const std::string& name, const std::string& more = "",
                    const std::string& command = "run") const {
    return run_program("overlap", line(name, more, command));
  }
  void expect_same(const std::string& a, const std::string& b) const {
    expect_same_files(path(a), path(b), {"overlap.npy"});
    EXPECT_EQ(without_seconds(json_in(path(a + "/summary.json"))),
              without_seconds(json_in(path(b + "/summary.json"))));
    for (const char* cell : {"/overlap-000", "/overlap-003", "/overlap-006", "/overlap-009"}) {
      expect_same_files(path(a) + cell, path(b) + cell, {"model.safetensors", "metrics.jsonl"});
      expect_same_states(path(a) + cell + "/checkpoint.safetensors",
                         path(b) + cell + "/checkpoint.safetensors");
    }
  }
};

TEST_F(OverlapGrowth, AllOfItsNetworks) {
  ASSERT_EQ(run("whole", "--iterations 70").code, 0);
  ASSERT_EQ(run("run").code, 0);
  ASSERT_EQ(run("parts", "--stop-after 9").code, kInterrupted);
  ASSERT_EQ(run("killed").code, 0);
  ASSERT_EQ(run("planned", "", "plan").code, 0);
  ASSERT_EQ(run("planned").code, 0);
  ASSERT_EQ(run("run", "--iterations 70").code, 0);
  expect_same("whole", "run");
  EXPECT_TRUE(has(run("run", "--iterations 70").out, "done already"));
  harness::runs_until_done("overlap", line("parts", "--iterations 70 --stop-after 9"));
  expect_same("whole", "parts");
  harness::kill_repeatedly("overlap", line("killed", "--iterations 70 --checkpoint-every 1"), 25);
  ASSERT_EQ(run("killed", "--iterations 70").code, 0);
  expect_same("whole", "killed");
  ASSERT_EQ(run("planned", "--iterations 70", "plan").code, 0);
  const ProgramResult status = run_program("overlap", {"status", "--out", path("planned")});
  EXPECT_TRUE(has(status.out, "interrupted    4"));
  for (const char* cell : {"0", "1", "2", "3"}) {
    EXPECT_EQ(run_program("overlap", {"run", "--cell", cell, "--out", path("planned"), "--device",
                                      "cpu", "--threads", "1"})
                  .code,
              0);
  }
  EXPECT_EQ(run_program("overlap", {"collect", "--out", path("planned")}).code, 0);
  expect_same("whole", "planned");
}

TEST_F(OverlapGrowth, OrNoneOfThem) {
  ASSERT_EQ(run("run", "--schedule tail --overlaps 3").code, 0);
  const std::string before = content_of(path("run/config.json"));
  expect_refusal(
      run("run", "--schedule tail --iterations 70 --overlaps 9"), "overlap", 2,
      path("run/overlap-003") +
          " holds a run of --iterations 40 that cannot grow to 70: its step 40 had a "
          "lower learning rate than a longer one's has (--schedule tail); choose another "
          "--out");
  EXPECT_EQ(content_of(path("run/config.json")), before);
  EXPECT_TRUE(has(run("run", "--schedule tail --overlaps 3").out, "done already"));
}

class DiffusionGrowth : public Grown {
 protected:
  Words line(const std::string& name, const std::string& more) const {
    return words(
        "run --preset demo --device cpu --threads 1 --side 3 --corridors 5 --steps-per-corridor 3 "
        "--walks 6 --walk-corridors 12 --dim 8 --multipliers 1,2 --groups 2 --steps 3 --batch 4 "
        "--iterations 12 --ema-every 2 --ema-from 4 --log-every 5 --pairs 1 --plans 2 "
        "--leak-outputs 1 --leak-inputs 1 --schedule constant --out " +
        path(name) + " " + more);
  }
  ProgramResult run(const std::string& name, const std::string& more = "") const {
    return run_program("diffusion", line(name, more));
  }
  void expect_same(const std::string& a, const std::string& b) const {
    expect_same_files(path(a), path(b),
                      words("metrics.jsonl model-0000000.safetensors model-0000030.safetensors "
                            "model-0000036.safetensors model.safetensors plans.npy pairs.npy "
                            "leak.json"));
    EXPECT_EQ(without_seconds(json_in(path(a + "/summary.json"))),
              without_seconds(json_in(path(b + "/summary.json"))));
    expect_same_states(path(a + "/checkpoint.safetensors"), path(b + "/checkpoint.safetensors"));
  }
};

TEST_F(DiffusionGrowth, WithItsAverageAndItsLeak) {
  ASSERT_EQ(run("whole", "--iterations 36").code, 0);
  for (const char* name : {"run", "parts", "killed"}) ASSERT_EQ(run(name).code, 0);
  ASSERT_EQ(run("run", "--iterations 36").code, 0);
  expect_same("whole", "run");
  EXPECT_EQ(harness::runs_until_done("diffusion", line("parts", "--iterations 36 --stop-after 7")),
            4);
  expect_same("whole", "parts");
  harness::kill_repeatedly("diffusion", line("killed", "--iterations 36 --checkpoint-every 1"), 25);
  ASSERT_EQ(run("killed", "--iterations 36").code, 0);
  expect_same("whole", "killed");
  ASSERT_EQ(run("tail", "--schedule tail").code, 0);
  expect_refusal(
      run("tail", "--schedule tail --iterations 13"), "diffusion", 2,
      path("tail") +
          " holds a run of --iterations 12 that cannot grow to 13: its step 12 had a "
          "lower learning rate than a longer one's has (--schedule tail); choose another "
          "--out");
}

// --- --from -------------------------------------------------------------------------------------

using LocalizationFrom = LocalizationGrowth;

TEST_F(LocalizationFrom, ItsOwnInitialWeightsChangeNothing) {
  done("run");
  done("from", "--from " + path("run/model-initial.safetensors"));
  expect_same("run", "from");
  const Json config = json_in(path("from/config.json"));
  EXPECT_EQ(config["from"], path("run/model-initial.safetensors"));
  EXPECT_TRUE(harness::begins(config["settings"]["from"].get<std::string>(), "crc32 "));
}

// The loss of its first step, computed from the file.
TEST_F(LocalizationFrom, BeginsWithTheFilesWeights) {
  done("trained");
  const std::string file = path("trained/model.safetensors");
  done("run", "--from " + file + " --seed 3 --log-every 1");
  EXPECT_EQ(content_of(path("run/model-initial.safetensors")), content_of(file));
  const Device& device = harness::device();
  const Localizer network = load_model(file, device);
  Tape tape(device);
  Random random(device, 3);
  const Var y = network(reshape(tape.normal({4, 20}, Stream::kNoise, random), {4, 20, 1}));
  const std::vector<double> answers = harness::values_of(y.value());
  const HostArray target = target_positions(20);
  double loss = 0;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const double error = answers[i] - static_cast<double>(target.as<float>()[i % 20]);
    loss += error * error / static_cast<double>(answers.size());
  }
  const std::string lines = content_of(path("run/metrics.jsonl"));
  EXPECT_NEAR(Json::parse(lines.substr(0, lines.find('\n')))["loss"].get<double>(), loss,
              1e-6 * loss);
}

TEST_F(LocalizationFrom, GoesOnWithThem) {
  done("trained");
  const std::string file = path("trained/model.safetensors"), from = "--from " + file;
  done("whole", from);
  ASSERT_EQ(run("parts", from + " --stop-after 9").code, kInterrupted);
  harness::runs_until_done("localization", line("parts", from + " --stop-after 9"));
  expect_same("whole", "parts");
  grows("whole", from + " --iterations 61");
  // Named or not, but not another one.
  ASSERT_EQ(run("run", from + " --stop-after 9").code, kInterrupted);
  fs::rename(file, path("away.safetensors"));
  fs::copy(path("trained/model-initial.safetensors"), file);
  const ProgramResult other = run("run", from);
  EXPECT_EQ(other.code, 2);
  EXPECT_TRUE(harness::begins(other.err, "localization: " + path("run") +
                                             " holds a run with other settings (from is \"crc32 "));
  ASSERT_EQ(run("run", "--from " + path("away.safetensors") + " --stop-after 9").code,
            kInterrupted);
  ASSERT_EQ(run("run", "").code, 0);
  expect_same("whole", "run");
  // Nor one of its own instead, nor before there are any to go on with.
  done("own");
  EXPECT_TRUE(has(run("own", from).err, " holds a run with other settings (from is null there, "));
  ASSERT_EQ(run("begun", "--from " + path("away.safetensors") + " --stop-after 1").code,
            kInterrupted);
  for (const fs::directory_entry& entry : fs::directory_iterator(path("begun"))) {
    if (entry.path().filename() != "config.json") fs::remove_all(entry.path());
  }
  expect_refusal(run("begun"), "localization", 1,
                 path("begun") +
                     " has no model-initial.safetensors yet; run with --from once "
                     "more");
  done("begun", "--from " + path("away.safetensors"));
  expect_same("whole", "begun");
}

TEST_F(LocalizationFrom, AnotherNetworkIsRefused) {
  done("trained");
  const std::string file = path("trained/model.safetensors"), from = "--from " + file;
  const auto refused_for = [&](const std::string& more, const std::string& message) {
    expect_refusal(run("run", from + more), "localization", 2, message);
    EXPECT_FALSE(fs::exists(path("run")));
  };
  refused_for(" --depth 5", file + ": a network with --depth 4, where the run has --depth 5");
  refused_for(" --model " + file, "--from: has no effect with --model, which is not trained");
  expect_refusal(run("run", "--from " + path("none")), "localization", 1,
                 fmt::format("cannot read {}: No such file or directory", path("none")));
}

using OverlapFrom = OverlapGrowth;

TEST_F(OverlapFrom, AllNetworksBeginWithTheFile) {
  ASSERT_EQ(run("run").code, 0);
  save_model(path("initial.safetensors"),
             Localizer(Device::cpu(1), DType::kF32, LocalizerConfig::packed(4, 8, 3), 0));
  const std::string from = "--from " + path("initial.safetensors");
  ASSERT_EQ(run("same", from + " --stop-after 9").code, kInterrupted);
  ASSERT_EQ(run("same").code, 0);  // named again or not
  expect_same("run", "same");
  const std::string trained = "--from " + path("run/overlap-006/model.safetensors");
  EXPECT_TRUE(has(run("same", trained).err, " holds a run with other settings (from is \"crc32 "));
  ASSERT_EQ(run("trained", trained, "plan").code, 0);
  for (const char* cell : {"0", "1", "2", "3"}) {
    EXPECT_EQ(run_program("overlap", {"run", "--cell", cell, "--out", path("trained"), "--device",
                                      "cpu", "--threads", "1"})
                  .code,
              0);
  }
  ASSERT_EQ(run("trained", trained).code, 0);
  EXPECT_EQ(content_of(path("trained/model-initial.safetensors")),
            content_of(path("run/overlap-006/model.safetensors")));
  EXPECT_NE(content_of(path("trained/overlap-000/metrics.jsonl")),
            content_of(path("run/overlap-000/metrics.jsonl")));
  ASSERT_EQ(run("whole", trained).code, 0);
  expect_same("whole", "trained");
  EXPECT_EQ(run_program("overlap", {"status", "--out", path("whole")}).code, 0);
  expect_refusal(run("other", from + " --channels 4"), "overlap", 2,
                 fmt::format("--channels 4: {} holds a network with --channels 8",
                             path("initial.safetensors")));
  EXPECT_FALSE(fs::exists(path("other")));
}

using DiffusionFrom = DiffusionGrowth;

TEST_F(DiffusionFrom, BeginsWithTheFile) {
  ASSERT_EQ(run("run", "--iterations 36").code, 0);
  const std::string initial = "--iterations 36 --from " + path("run/model-0000000.safetensors");
  ASSERT_EQ(run("same", initial + " --stop-after 9").code, kInterrupted);
  ASSERT_EQ(run("same", initial).code, 0);
  expect_same("run", "same");
  const std::string trained = "--from " + path("run/model.safetensors");
  ASSERT_EQ(run("trained", trained).code, 0);
  EXPECT_EQ(content_of(path("trained/model-0000000.safetensors")),
            content_of(path("run/model.safetensors")));
  for (const auto& [other, theirs] : {std::pair{"--dim 4", "--dim 8"},
                                      {"--steps 4", "--steps 3"},
                                      {"--multipliers 1,2,2", "--multipliers 1,2"},
                                      {"--kernel-size 3", "--kernel-size 5"}}) {
    expect_refusal(run("other", fmt::format("{} {}", other, trained)), "diffusion", 2,
                   fmt::format("{}: {} holds a network with {}", other,
                               path("run/model.safetensors"), theirs));
  }
  EXPECT_FALSE(fs::exists(path("other")));
}

}  // namespace
}  // namespace sidechannel::experiments
