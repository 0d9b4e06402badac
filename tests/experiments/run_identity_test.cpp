// Whose run it is: results, states and models count for the settings that they were made with, and
// nothing of anybody else's is replaced.

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "engine/io/json.h"
#include "experiments/run/interrupt.h"
#include "tests/harness/program.h"

namespace sidechannel {
namespace {

namespace fs = std::filesystem;
using harness::content_of;
using harness::ProgramResult;
using harness::run_program;
using harness::Words;
using harness::words;

class RunIdentity : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_ / name; }

  ProgramResult localization(const std::string& command, const std::string& out,
                             const Words& more = {}) const {
    const Words arguments =
        words(command +
                  " --length 16 --depth 3 --channels 4 --iterations 8 --batch 2 "
                  "--log-every 4 --probe-iterations 5 --probe-width 4 --map-samples 64 "
                  "--norm instance --device cpu --out",
              {path(out)});
    return run_program("localization", harness::with(arguments, more));
  }
  ProgramResult overlap(const std::string& out, const std::string& more) const {
    return run_program("overlap",
                       words("run --depth 3 --channels 4 --kernel-size 3 --iterations 8 --batch 2 "
                             "--test-pairs 20 --device cpu " +
                                 more,
                             {"--out", path(out)}));
  }
  void expect_refusal(const ProgramResult& result, int code, const std::string& message) const {
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_TRUE(harness::ends(result.err, message + "\n"));
  }

  const harness::TemporaryFolder folder_;
};

TEST_F(RunIdentity, AFolderThatHoldsSomethingElseIsLeftAsItIs) {
  fs::create_directory(path("notes"));
  std::ofstream(path("notes/model.safetensors")) << "mine";
  for (const char* command : {"train", "run"}) {
    expect_refusal(localization(command, "notes"), 2,
                   path("notes") + " holds no run but model.safetensors; choose another --out");
  }
  EXPECT_EQ(content_of(path("notes/model.safetensors")), "mine");
  // Hidden files harm nobody, and are nobody's to clear up.
  fs::create_directory(path("hidden"));
  std::ofstream(path("hidden/.notes.tmp")) << "mine";
  EXPECT_EQ(localization("train", "hidden").code, 0);
  EXPECT_EQ(content_of(path("hidden/.notes.tmp")), "mine");
}

TEST_F(RunIdentity, ResultsWithoutTheirSettingsAreNobodys) {
  ASSERT_EQ(localization("run", "run").code, 0);
  fs::remove(path("run/config.json"));
  const ProgramResult result = localization("run", "run", {"--seed", "9"});
  EXPECT_EQ(result.code, 2) << result.err;
  EXPECT_TRUE(harness::has(result.err, "holds no run but "));
  EXPECT_FALSE(fs::exists(path("run/config.json")));
}

TEST_F(RunIdentity, ALostArrayIsMadeAgain) {
  ASSERT_EQ(localization("run", "run").code, 0);
  const std::string whole = content_of(path("run/p_max.npy"));
  fs::resize_file(path("run/p_max.npy"), 40);
  fs::remove(path("run/localized.npy"));
  const ProgramResult result = localization("run", "run");
  EXPECT_EQ(result.code, 0);
  EXPECT_TRUE(harness::has(result.err, "; it is made again\n"));
  EXPECT_EQ(content_of(path("run/p_max.npy")), whole);
  EXPECT_TRUE(fs::exists(path("run/localized.npy")));
}

TEST_F(RunIdentity, LostLinesOfTheLogAreWrittenAgain) {
  ASSERT_EQ(localization("run", "run").code, 0);
  const std::string whole = content_of(path("run/metrics.jsonl"));
  fs::remove(path("run/summary.json"));
  fs::remove(path("run/checkpoint.safetensors"));  // the training begins anew, and cuts the log
  ASSERT_EQ(localization("run", "run").code, 0);
  EXPECT_EQ(content_of(path("run/metrics.jsonl")), whole);
}

TEST_F(RunIdentity, AStateOfAnotherRunIsNotContinued) {
  ASSERT_EQ(localization("run", "theirs", {"--seed", "3"}).code, 0);
  ASSERT_EQ(localization("run", "mine", {"--stop-after", "4"}).code, experiments::kExitInterrupted);
  for (const auto& entry : fs::directory_iterator(path("mine"))) {
    if (entry.path().string().ends_with(".previous")) fs::remove(entry.path());
  }
  fs::copy_file(path("theirs/checkpoint.safetensors"), path("mine/checkpoint.safetensors"),
                fs::copy_options::overwrite_existing);
  expect_refusal(localization("run", "mine"), 1,
                 path("mine/checkpoint.safetensors") + ": is a state of another run");
}

TEST_F(RunIdentity, AnOverlapOfAnotherRunDoesNotCount) {
  ASSERT_EQ(overlap("theirs", "--overlaps 0 --seed 7").code, 0);
  ASSERT_EQ(overlap("mine", "--overlaps 3").code, 0);
  fs::copy(path("theirs/overlap-000"), path("mine/overlap-000"));
  EXPECT_EQ(overlap("mine", "--overlaps 3").code, 0);
  EXPECT_EQ(Json::parse(content_of(path("mine/summary.json")))["points"].size(), 1u);
  const ProgramResult refused = overlap("mine", "--overlaps 0,3");
  EXPECT_EQ(refused.code, 1);
  EXPECT_TRUE(harness::has(refused.err, path("mine/overlap-000") +
                                            " holds a run with other settings (seed is 7 there, 0 "
                                            "here); choose another --out"));
}

TEST_F(RunIdentity, AModelMustBeTheOneThatTheSettingsDescribe) {
  const std::string model = path("trained/model.safetensors");
  ASSERT_EQ(localization("train", "trained", {"--kernel-size", "9"}).code, 0);
  expect_refusal(localization("run", "run", {"--kernel-size", "3", "--model", model}), 2,
                 model + ": a network with --kernel-size 9, where the run has --kernel-size 3");
  EXPECT_FALSE(fs::exists(path("run")));
  expect_refusal(localization("run", "run", {"--kernel-size", "3", "--model", model, "--check"}), 2,
                 model + ": a network with --kernel-size 9, where the run has --kernel-size 3");
  ASSERT_EQ(localization("train", "groups", {"--norm", "group", "--groups", "4"}).code, 0);
  const std::string groups = path("groups/model.safetensors");
  expect_refusal(
      localization("run", "run", {"--norm", "group", "--groups", "1", "--model", groups}), 2,
      groups + ": a network with --groups 4, where the run has --groups 1");
}

TEST_F(RunIdentity, ARunOfAGivenModelGoesOnWithIt) {
  const std::string model = path("trained/model.safetensors");
  ASSERT_EQ(localization("train", "trained", {"--seed", "5"}).code, 0);
  ASSERT_EQ(localization("run", "whole", {"--model", model}).code, 0);
  ASSERT_EQ(localization("run", "run", {"--model", model, "--stop-after", "2"}).code,
            experiments::kExitInterrupted);
  ASSERT_EQ(localization("run", "run").code, 0);  // without --model
  EXPECT_EQ(content_of(path("run/predictions_mean.npy")),
            content_of(path("whole/predictions_mean.npy")));
  expect_refusal(localization("train", "run"), 2,
                 path("run") + " holds a run of a model that was given; choose another --out");
  // One that trains its own takes no other's.
  ASSERT_EQ(localization("run", "own", {"--stop-after", "2"}).code, experiments::kExitInterrupted);
  expect_refusal(localization("run", "own", {"--model", model}), 2,
                 path("own") + " holds a run that trains its own network; choose another --out");
}

TEST_F(RunIdentity, PredictReplacesNothingThatItReads) {
  ASSERT_EQ(localization("run", "run").code, 0);
  const std::string model = path("run/model.safetensors");
  const std::string input = path("run/predictions_sample.npy");
  const auto predict = [&](const std::string& output) {
    return run_program("localization", {"predict", "--model", model, "--input", input, "--output",
                                        output, "--device", "cpu"});
  };
  for (const std::string& output : {model, input}) {
    const std::string before = content_of(output);
    const ProgramResult result =
        predict(path("trained/../") + output.substr(folder_.path().string().size()));
    EXPECT_EQ(content_of(output), before);
    EXPECT_NE(result.code, 0);
  }
  EXPECT_EQ(predict(input).err,
            fmt::format("localization: --output {}: is what is read, {}\n", input, input));
}

// All that a run would refuse.
TEST_F(RunIdentity, CheckSaysWhatTheRunWouldSay) {
  const auto check = [&](const std::string& program, const std::string& line) {
    ProgramResult result = run_program(program, words(line, {"--check", "--out", path("none")}));
    EXPECT_FALSE(fs::exists(path("none")));
    return result;
  };
  expect_refusal(check("localization", "run --precision tf32 --device cpu"), 2,
                 "precision tf32: the CPU computes in fp32");
  expect_refusal(check("localization", "run --resume only"), 2,
                 path("none") + " holds no run to resume");
  EXPECT_EQ(check("localization", "run --model " + path("none/m.safetensors")).code, 1);
  expect_refusal(check("sweep", "run --preset groups/demo --cell foo"), 2,
                 "--cell foo: expected a whole number from 0 to 2, or an id in plan.json");
  expect_refusal(check("sweep", "run --preset groups/demo --jobs 3 --cell 1"), 2,
                 "--jobs: has no effect with --cell");
  expect_refusal(check("sweep", "run --program overlap --over seed=0 --set precision=tf32"), 2,
                 "precision tf32: the CPU computes in fp32");
  EXPECT_EQ(check("sweep", "run --preset groups/demo --jobs 2 --device cpu").code, 0);
  EXPECT_EQ(check("overlap", "run").code, 0);
}

TEST_F(RunIdentity, AFlagTakesNoOtherForItsValue) {
  expect_refusal(overlap("x", "--seed= 5"), 2,
                 "--seed: expected a value, got an empty one (see --help)");
  expect_refusal(run_program("overlap", {"run", "--out", "--check"}), 2,
                 "--out: expected a value, got the flag --check");
  expect_refusal(run_program("overlap", {"run", "--", "--check"}), 2,
                 "--: not expected here (see --help)");
  expect_refusal(overlap("x", "--seed -0"), 2,
                 "--seed -0: expected a whole number from 0 to 9223372036854775807");
}

TEST_F(RunIdentity, APlanSaysNothingThatEachRunSays) {
  for (const char* text : {R"("device": "cuda")", R"("threads": 1)", R"("for_norm": 17)"}) {
    std::ofstream(path("p.json")) << R"({"length": 16, "depth": 3, "channels": 4, "norm": "group",
        "program": "localization", "over": ["groups=1"], )"
                                  << text << "}";
    const ProgramResult result =
        run_program("sweep", {"plan", "--preset", path("p.json"), "--out", path("plan")});
    EXPECT_EQ(result.code, 2) << text << result.err;
    EXPECT_FALSE(fs::exists(path("plan")));
  }
}

}  // namespace
}  // namespace sidechannel
