#include "experiments/localization_settings.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

// The message of the UsageError that f throws; empty when it throws none.
template <class F>
std::string usage_error(const F& f) {
  try {
    f();
  } catch (const UsageError& error) {
    return error.what();
  }
  return {};
}

std::string check_error(const std::function<void(LocalizationSettings&)>& change) {
  LocalizationSettings settings = settings_from_preset<LocalizationSettings>("demo");
  change(settings);
  return usage_error([&] { settings.check(); });
}

TEST(Settings, PresetsMakeSenseForEveryNorm) {
  for (const char* preset : {"demo", "small", "paper"}) {
    for (const char* norm : {"none", "instance", "group", "layer", "batch"}) {
      const LocalizationSettings settings =
          settings_from_preset<LocalizationSettings>(preset, norm);
      EXPECT_NO_THROW(settings.check()) << preset << " " << norm;
      EXPECT_EQ(settings.norm, norm);
    }
  }
}

TEST(Settings, ThePaperPresetIsAppendixE) {
  const LocalizationSettings paper =
      settings_from_preset<LocalizationSettings>("paper", "instance");
  EXPECT_EQ(paper.length, 600);
  EXPECT_EQ(paper.network().receptive_field(), 64);
  EXPECT_EQ(paper.channels, 64);
  EXPECT_EQ(paper.iterations, 100000);
  EXPECT_EQ(paper.batch, 32);
  EXPECT_EQ(paper.learning_rate, 1e-4);
  EXPECT_EQ(paper.probe_width, 256);
  EXPECT_EQ(paper.probe_iterations, 5000);
  EXPECT_EQ(paper.probe_rate().base, 1e-3);
  EXPECT_EQ(paper.probe_rate().schedule, kernels::LearningRate::Schedule::kConstant);
  EXPECT_EQ(paper.map_samples, 3200000);
  EXPECT_EQ(paper.p_threshold, 0.1);
  const LocalizationSettings batch = settings_from_preset<LocalizationSettings>("paper", "batch");
  EXPECT_EQ(batch.length, 250);
  EXPECT_EQ(batch.samples_per_set, 4);
  EXPECT_EQ(batch.iterations, 500000);
}

TEST(Settings, FilesSayWhatIsWrong) {
  const harness::TemporaryFolder folder;
  const auto error_of = [&](const std::string& text) {
    std::ofstream(folder / "p.json") << text;
    const std::string message =
        usage_error([&] { settings_from_preset<LocalizationSettings>(folder / "p.json"); });
    return message.substr(message.find("p.json"));
  };
  EXPECT_EQ(error_of("{\"length\": \"long\"}"), "p.json: length cannot be \"long\"");
  EXPECT_EQ(error_of("{\"length\": 1.5}"), "p.json: length cannot be 1.5");
  EXPECT_EQ(error_of("{\"lenght\": 64}"), "p.json: there is no setting lenght");
  EXPECT_EQ(error_of("{"), "p.json: expected JSON, got its end at line 1, column 2");
  EXPECT_EQ(error_of("[]"), "p.json: expected a JSON object, got an empty list");
  EXPECT_EQ(usage_error([] { settings_from_preset<LocalizationSettings>("huge"); }),
            "preset huge: expected demo, small, paper or a .json file");
  std::ofstream(folder / "p.json")
      << "{\"length\": 32, \"for_norm\": {\"none\": {\"length\": 16}}}";
  EXPECT_EQ(settings_from_preset<LocalizationSettings>(folder / "p.json", "instance").length, 32);
  EXPECT_EQ(settings_from_preset<LocalizationSettings>(folder / "p.json", "none").length, 16);
}

TEST(Settings, ImpossibleValuesAreRefusedInWords) {
  using S = LocalizationSettings&;
  EXPECT_EQ(check_error([](S s) { s.kernel_size = 4; }), "kernel size 4: expected an odd number");
  EXPECT_EQ(check_error([](S s) { s.length = 0; }), "length 0: expected at least 1");
  EXPECT_EQ(check_error([](S s) { s.depth = 1; }), "depth 1: expected at least 2 convolutions");
  EXPECT_EQ(check_error([](S s) { s.norm = "rms"; }),
            "norm rms: expected none, instance, group, layer or batch");
  EXPECT_EQ(check_error([](S s) { s.norm = "group", s.groups = 5; }),
            "groups 5: expected a divisor of the 32 channels");
  EXPECT_EQ(check_error([](S s) { s.norm = "batch", s.samples_per_set = 3; }),
            "batch 8: expected a multiple of 3 samples per set");
  EXPECT_EQ(check_error([](S s) { s.eval_statistics = "population"; }),
            "eval statistics population: instance norm has no running statistics");
  EXPECT_EQ(check_error([](S s) { s.eval_statistics = "some"; }),
            "eval statistics some: expected minibatch or population");
  EXPECT_EQ(check_error([](S s) { s.schedule = "cosine"; }),
            "schedule cosine: expected constant or tail");
  EXPECT_EQ(check_error([](S s) { s.probe_schedule = "step"; }),
            "schedule step: expected constant or tail");
  EXPECT_EQ(check_error([](S s) { s.precision = "fp16"; }),
            "precision fp16: expected auto, fp32 or tf32");
  EXPECT_EQ(check_error([](S s) { s.p_threshold = 1; }),
            "p threshold: expected a number between 0 and 1");
  EXPECT_EQ(check_error([](S s) { s.learning_rate = 0; }), "learning rate: expected more than 0");
  EXPECT_EQ(check_error([](S s) { s.iterations = std::int64_t{1} << 32; }),
            "iterations: expected fewer than 2^32");
  EXPECT_EQ(check_error([](S) {}), "");
}

TEST(Settings, OnlyWhatResultsDependOnCountsAsADifference) {
  const LocalizationSettings settings = settings_from_preset<LocalizationSettings>("demo");
  LocalizationSettings other = settings;
  other.threads = 1;
  other.device = "cpu";
  other.checkpoint_every = 7;
  EXPECT_TRUE(differences(to_json(settings), to_json(other)).empty());
  other.learning_rate = 1;
  other.seed = 3;
  EXPECT_EQ(differences(to_json(settings), to_json(other)),
            (std::vector<std::string>{"learning_rate", "seed"}));
}

}  // namespace
}  // namespace sidechannel::experiments
