// What a run does where its own files have been damaged: the state before serves, or one line says
// which files will not do.

#include <gtest/gtest.h>

#include <fstream>
#include <functional>

#include "engine/io/file.h"
#include "engine/io/safetensors.h"
#include "experiments/localization/localize.h"
#include "experiments/run/interrupt.h"
#include "experiments/run/summary.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;
using harness::content_of;
using harness::error_of;
using harness::TemporaryFolder;

constexpr const char* kState = "checkpoint.safetensors";

LocalizationSettings tiny(std::int64_t stop_after = 0) {
  LocalizationSettings s;
  apply(parse_json(R"({"norm": "none", "length": 8, "depth": 3, "channels": 2, "batch": 2,
      "iterations": 6, "log_every": 2, "checkpoint_every": 3, "probes": "none", "map_samples": 4})",
                   "tiny"),
        "tiny", s);
  s.stop_after = stop_after;
  return s;
}

void run(const fs::path& path, const LocalizationSettings& settings = tiny()) {
  const Device device = Device::cpu(1);
  RunFolder folder(path, to_json(settings), device, Resume::kAuto);
  run_localization(settings, folder, device);
}

// A run that has stopped after four of six steps, and one that was never stopped.
class DamagedState : public testing::Test {
 protected:
  DamagedState() {
    run(whole_);
    EXPECT_THROW(run(stopped_, tiny(4)), Interrupted);
    state_ = read_safetensors(stopped_ / kState);
  }

  std::string state_path() const { return (stopped_ / kState).string(); }

  // Goes on from the state before, to what the other run has come to; what is said of it.
  std::string said_of_the_same_end() const {
    testing::internal::CaptureStderr();
    run(stopped_);
    std::string said = testing::internal::GetCapturedStderr();
    EXPECT_TRUE(harness::has(said, "; continuing from " + state_path() + ".previous\n"));
    harness::expect_same_files(stopped_, whole_,
                               {"model.safetensors", "metrics.jsonl", "localized.npy"});
    return said;
  }

  // What a run says where this is the only state.
  std::string refusal(const std::function<void(SafetensorsFile&)>& damage) {
    SafetensorsFile damaged = state_;
    damage(damaged);
    fs::remove(previous_of(stopped_ / kState));
    write_safetensors(stopped_ / kState, damaged);
    const std::string message = error_of([&] { run(stopped_); });
    const std::string prefix = state_path() + ": ";
    return message.starts_with(prefix) ? message.substr(prefix.size()) : message;
  }

  const TemporaryFolder folder_;
  const fs::path whole_ = folder_.path() / "whole";
  const fs::path stopped_ = folder_.path() / "stopped";
  SafetensorsFile state_;
};

TEST_F(DamagedState, TheOneBeforeServesAndLeadsToTheSameBytes) {
  std::ofstream(stopped_ / kState, std::ios::app) << "x";
  EXPECT_TRUE(harness::begins(said_of_the_same_end(), state_path() + ": expected "));
}

TEST_F(DamagedState, SoItDoesWhereTheStateIsWellFormedAndWrong) {
  state_.metadata["step"] = "-7";
  write_safetensors(stopped_ / kState, state_);
  said_of_the_same_end();
}

TEST_F(DamagedState, SoItDoesWhereAValueCannotBe) {
  state_.tensors.at("adam.v").as<float>()[0] = -1;
  write_safetensors(stopped_ / kState, state_);
  EXPECT_TRUE(harness::begins(
      said_of_the_same_end(),
      state_path() + ": tensor adam.v holds -1, expected at least 0; continuing from "));
}

// Three steps of two samples each since the last line: no other count can be.
TEST_F(DamagedState, WhatWasAveragedIsCountedExactly) {
  LocalizationSettings settings = tiny(5);
  settings.curriculum_iterations = 2;
  settings.curriculum_length = 4;
  settings.iterations = 6;
  settings.log_every = 8;
  const fs::path path = folder_.path() / "counted";
  EXPECT_THROW(run(path, settings), Interrupted);
  fs::remove(previous_of(path / kState));
  const SafetensorsFile whole = read_safetensors(path / kState);
  const std::string where = (path / kState).string();
  settings.stop_after = 0;
  for (const auto& [name, right] :
       {std::pair{"window.loss.count", 3}, {"window.outputs.count", 6}}) {
    EXPECT_EQ(whole.tensors.at(name).as<std::int64_t>()[0], right);
    for (const std::int64_t wrong : {std::int64_t{0}, std::int64_t{1}, std::int64_t{1} << 62}) {
      SafetensorsFile damaged = whole;
      damaged.tensors[name] = scalar(wrong);
      write_safetensors(path / kState, damaged);
      EXPECT_EQ(error_of([&] { run(path, settings); }),
                fmt::format("{}: {} is {}, expected {}", where, name, wrong, right));
    }
  }
  write_safetensors(path / kState, whole);
  run(path, settings);
}

TEST_F(DamagedState, BothAreNamedWhereNeitherWillDo) {
  for (const fs::path& path : {stopped_ / kState, previous_of(stopped_ / kState)}) {
    std::ofstream(path) << "x";
  }
  const std::string short_one = ": expected at least 8 bytes, got 1";
  EXPECT_EQ(error_of([&] { run(stopped_); }),
            state_path() + short_one + "; and " + state_path() + ".previous" + short_one);
}

TEST_F(DamagedState, EveryFieldIsCheckedInItsOwnWords) {
  const auto metadata = [&](const char* name, const char* value) {
    return refusal([&](SafetensorsFile& file) { file.metadata[name] = value; });
  };
  const auto tensor = [&](const char* name, const HostArray& value) {
    return refusal([&](SafetensorsFile& file) { file.tensors[name] = value; });
  };
  EXPECT_EQ(metadata("step", "-7"), R"(step is "-7", expected a whole number from 0 to 6)");
  EXPECT_EQ(metadata("step", "7"), R"(step is "7", expected a whole number from 0 to 6)");
  EXPECT_EQ(metadata("step", ""), R"(step is "", expected a whole number from 0 to 6)");
  EXPECT_EQ(metadata("step", "3x"), R"(step is "3x", expected a whole number from 0 to 6)");
  EXPECT_EQ(metadata("step", "3"), "adam.steps is 4, expected 3");
  EXPECT_EQ(metadata("milliseconds", "99999999999999999999"),
            R"(milliseconds is "99999999999999999999", expected a whole number from 0 to )"
            "10000000000000");
  EXPECT_EQ(metadata("metrics_bytes", "1000000"),
            "was saved after 1000000 bytes of " + (stopped_ / "metrics.jsonl").string() +
                ", which holds only " + state_.metadata.at("metrics_bytes"));
  EXPECT_EQ(refusal([](SafetensorsFile& file) { file.metadata.erase("step"); }),
            "has no step, so it is no state of a run");
  EXPECT_EQ(tensor("shown", HostArray(DType::kF64, {0})), "shown is f64 [0], expected f64 [3]");
  EXPECT_EQ(refusal([](SafetensorsFile& file) { file.tensors.erase("shown"); }),
            "has no tensor shown");
  EXPECT_EQ(tensor("adam.steps", scalar(-1)), "adam.steps is -1, expected 4");
  EXPECT_EQ(tensor("adam.m", HostArray(DType::kF64, {3})).substr(0, 27),
            "adam.m is f64 [3], expected");
  // Lines come every two steps: after the fourth, nothing is in the window.
  for (const std::int64_t count : {std::int64_t{-1}, std::int64_t{1}, std::int64_t{1} << 62}) {
    EXPECT_EQ(tensor("window.loss.count", scalar(count)),
              fmt::format("window.loss.count is {}, expected 0", count));
    EXPECT_EQ(tensor("window.outputs.count", scalar(count)),
              fmt::format("window.outputs.count is {}, expected 0", count));
  }
  EXPECT_EQ(tensor("window.loss.count", HostArray(DType::kI32, {})),
            "window.loss.count is i32 [], expected i64 []");
  const double negative = -1;
  EXPECT_EQ(tensor("window.loss.m2", HostArray::from<double>(std::span(&negative, 1), {1})),
            "tensor window.loss.m2 holds -1, expected at least 0");
  EXPECT_EQ(refusal([](SafetensorsFile& file) { file.tensors.at("adam.v").as<float>()[0] = -1; }),
            "tensor adam.v holds -1, expected at least 0");
  EXPECT_EQ(tensor("conv_in.weight", HostArray(DType::kF32, {2, 1, 3})),
            "conv_in.weight is f32 [2, 1, 3], expected f32 [2, 1, 5]");
}

TEST_F(DamagedState, ASummaryThatSaysNothingIsMadeAgain) {
  const std::string whole = content_of(whole_ / "summary.json");
  for (const char* damaged : {"", "{}", "[]", R"({"localized_fraction": []})"}) {
    std::ofstream(whole_ / "summary.json") << damaged;
    EXPECT_FALSE(has_summary(whole_));
    run(whole_);
    EXPECT_TRUE(has_summary(whole_)) << damaged;
    EXPECT_EQ(read_summary(whole_)["localized_fraction"],
              parse_json(whole, "whole")["localized_fraction"]);
  }
}

}  // namespace
}  // namespace sidechannel::experiments
