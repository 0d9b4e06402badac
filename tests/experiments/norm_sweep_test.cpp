// The plans and the results of the sweeps over groups, and over samples that share statistics.

#include "experiments/groups/norm_sweep.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "experiments/groups/collect.h"
#include "tests/experiments/settings_check.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

using harness::TemporaryFolder;

TEST(NormSweep, PresetsMakeSense) {
  for (const SweepAxis& axis : kSweepAxes) {
    for (const char* preset : {"demo", "small", "paper"}) {
      const NormSweep sweep = plan_sweep(preset, Json::object(), axis);
      EXPECT_GE(sweep.cells.size(), 3u) << preset;
      for (std::size_t i = 0; i < sweep.cells.size(); ++i) {
        const LocalizationSettings settings = sweep.settings_of(i);
        EXPECT_NO_THROW(settings.check()) << preset;
        EXPECT_EQ(settings.norm, axis.norm);
        EXPECT_EQ(settings.preset, preset);
        EXPECT_EQ(settings.*axis.member, sweep.cells[i].value);
        if (axis.population) {
          EXPECT_NO_THROW(with_population(settings).check()) << preset;
        }
      }
    }
  }
}

// Each batch is the same 32 sequences, however they are put together.
TEST(NormSweep, CrosstalkChangesNothingButTheSets) {
  for (const char* preset : {"small", "paper"}) {
    const NormSweep sweep = plan_sweep(preset, Json::object(), kSamplesPerSet);
    std::set<std::int64_t> values;
    for (std::size_t i = 0; i < sweep.cells.size(); ++i) {
      values.insert(sweep.cells[i].value);
      LocalizationSettings settings = sweep.settings_of(i);
      settings.samples_per_set = 1;
      settings.seed = 0;
      EXPECT_EQ(to_json(settings), to_json(sweep.settings_of(0))) << preset;
    }
    EXPECT_EQ(values, (std::set<std::int64_t>{1, 2, 4, 8, 16, 32})) << preset;
    EXPECT_EQ(sweep.cells[1].id.substr(0, 9), "S2-seed0-");
  }
}

TEST(NormSweep, ThePaperPresetIsAppendixDAndE) {
  const NormSweep sweep = plan_sweep("paper");
  ASSERT_EQ(sweep.cells.size(), 140u);  // 7 numbers of groups, 5 seeds, 4 learning rates
  std::set<std::int64_t> groups;
  std::set<double> rates;
  for (const auto& cell : sweep.cells) groups.insert(cell.value), rates.insert(cell.learning_rate);
  EXPECT_EQ(groups, (std::set<std::int64_t>{1, 2, 4, 8, 16, 32, 64}));
  ASSERT_EQ(rates.size(), 4u);
  double rate = 1e-5;
  for (const double found : rates) {
    EXPECT_DOUBLE_EQ(found, rate);
    rate *= 4;
  }
  const LocalizationSettings settings = sweep.settings_of(139);
  expect_settings(to_json(settings), R"({"length": 600, "channels": 64, "iterations": 100000,
      "batch": 32, "schedule": "constant", "probe_width": 256, "probe_iterations": 5000,
      "map_samples": 3200000, "seed": 4, "groups": 64})");
  EXPECT_EQ(settings.radius(), 64);
}

TEST(NormSweep, CellsAreOrderedAndNamedByWhatTheyAre) {
  const NormSweep sweep =
      plan_sweep("paper", {{"groups", {1, 4}}, {"seeds", 2}, {"learning_rates", {1e-5, 1.6e-4}}});
  std::vector<std::string> ids;
  for (const auto& cell : sweep.cells) ids.push_back(cell.id);
  EXPECT_EQ(ids,
            (std::vector<std::string>{"G1-seed0-lr1e-05", "G4-seed0-lr1e-05", "G1-seed0-lr0.00016",
                                      "G4-seed0-lr0.00016", "G1-seed1-lr1e-05", "G4-seed1-lr1e-05",
                                      "G1-seed1-lr0.00016", "G4-seed1-lr0.00016"}));
  expect_settings(to_json(sweep.settings_of(3)),
                  R"({"groups": 4, "seed": 0, "learning_rate": 1.6e-4})");
}

TEST(NormSweep, WhatMakesNoSenseIsRefusedInWords) {
  const auto error_of = [](const Json& given) {
    return usage_error([&] { plan_sweep("demo", given); });
  };
  EXPECT_EQ(error_of({{"groups", {1, 5}}}), "--groups 5: expected a divisor of --channels 32");
  EXPECT_EQ(error_of({{"groups", {4, 4}}}), "demo: groups names 4 twice");
  EXPECT_EQ(error_of({{"groups", Json::array()}}),
            "demo: groups is an empty list, expected a list of 1 to 10000 numbers");
  EXPECT_EQ(error_of({{"groups", {1.5}}}),
            "demo: groups: groups 1.5: expected a whole number from 1 to 16384");
  EXPECT_EQ(error_of({{"learning_rates", "fast"}}),
            "demo: learning_rates is \"fast\", expected a list of 1 to 10000 numbers");
  EXPECT_EQ(error_of({{"learning_rates", {0}}}),
            "demo: learning_rates: learning_rate 0: expected a number of at least 1e-30 and at "
            "most 1e+30");
  EXPECT_EQ(error_of({{"seeds", 0}}), "demo: seeds is 0, expected a whole number from 1 to 10000");
  EXPECT_EQ(
      error_of({{"seeds", 10'000}}),
      "a sweep of 3 groups, 1 learning rates and 10000 seeds has 30000 cells, expected at most "
      "10000 (--groups, --learning-rates, --seeds)");
  EXPECT_EQ(error_of({{"seeds", 1'000'000'000'000}}),
            "demo: seeds is 1000000000000, expected a whole number from 1 to 10000");
  EXPECT_EQ(error_of({{"samples_per_set", 2}}),
            "--samples-per-set 2: has no effect without --norm batch");
  EXPECT_EQ(error_of({{"seed", 3}}), "demo: seed is not for a sweep to set");
  EXPECT_EQ(error_of({{"norm", "batch"}}), "demo: norm is not for a sweep to set");
  EXPECT_EQ(error_of({{"lenght", 3}}), "demo: there is no setting lenght");
  EXPECT_EQ(error_of({{"probes", "some"}}), "demo: probes \"some\": expected all, last or none");

  const auto crosstalk = [](const Json& given) {
    return usage_error([&] { plan_sweep("demo", given, kSamplesPerSet); });
  };
  EXPECT_EQ(crosstalk({{"samples_per_set", {1, 3}}}),
            "--batch 32: expected a multiple of --samples-per-set 3");
  EXPECT_EQ(crosstalk({{"groups", 2}}),
            "--groups 2: has no effect without --norm group or group_population");
  EXPECT_EQ(crosstalk({{"eval_statistics", "population"}}),
            "demo: eval_statistics is not for a sweep to set");
}

TEST(NormSweep, APlanIsWrittenOnce) {
  const TemporaryFolder folder;
  const NormSweep sweep = plan_sweep("demo");
  EXPECT_FALSE(has_plan(folder.path()));
  write_plan(folder.path(), sweep);
  const std::string written = harness::content_of(folder / "plan.json");
  write_plan(folder.path(), sweep);
  EXPECT_EQ(harness::content_of(folder / "plan.json"), written);
  const NormSweep read = read_plan(folder.path());
  ASSERT_EQ(read.cells.size(), sweep.cells.size());
  for (std::size_t i = 0; i < read.cells.size(); ++i) {
    EXPECT_EQ(read.cells[i].id, sweep.cells[i].id);
    EXPECT_EQ(to_json(read.settings_of(i)), to_json(sweep.settings_of(i)));
  }
  EXPECT_EQ(usage_error([&] {
              write_plan(folder.path(), plan_sweep("demo", {{"iterations", 7}}));
            }),
            fmt::format("{} holds a sweep with other settings (iterations is {} there, 7 here); "
                        "choose another --out",
                        folder.path().string(), sweep.settings_of(0).iterations));
  EXPECT_EQ(usage_error([&] {
              write_plan(folder.path(), plan_sweep("demo", {{"seeds", 77}}));
            }),
            folder.path().string() +
                " holds a sweep of other groups, seeds or learning rates; choose another --out");
  EXPECT_EQ(usage_error([&] {
              write_plan(folder.path(), plan_sweep("demo", Json::object(), kSamplesPerSet));
            }),
            folder.path().string() +
                " holds a sweep over groups, not samples_per_set; choose another --out");
  EXPECT_EQ(harness::content_of(folder / "plan.json"), written);
}

TEST(DamagedPlan, EveryFieldIsCheckedInItsOwnWords) {
  const TemporaryFolder folder;
  write_plan(folder.path(), plan_sweep("demo"));
  const std::string path = folder / "plan.json";
  const Json whole = read_json(path);
  const auto refusal = [&](const std::string& text) {
    std::ofstream(path) << text;
    const std::string message = harness::error_of([&] { read_plan(folder.path()); });
    return message.starts_with(path + ": ") ? message.substr(path.size() + 2) : message;
  };
  EXPECT_EQ(refusal(whole.dump()), "no error");
  EXPECT_EQ(refusal("{"), "expected JSON, got its end at line 1, column 2");
  EXPECT_EQ(refusal("{\"experiment\": \"overlap\"}"), "not a plan of groups but of overlap");
  Json other = whole;
  other["experiment"] = "crosstalk";
  EXPECT_EQ(refusal(other.dump()), "samples_per_set is not for a sweep to set");
  for (const char* name : {"samples_per_set", "eval_statistics"}) other["settings"].erase(name);
  EXPECT_EQ(refusal(other.dump()), "cell 0: has no \"samples_per_set\"");
  const struct {
    const char* place;
    Json value;
    std::string message;
  } cases[] = {
      {"/cells", Json::array(), R"("cells" is an empty list, expected at least one cell)"},
      {"/cells", nullptr, R"("cells" is null, expected a list)"},
      {"/cells", 3, R"("cells" is 3, expected a list)"},
      {"/settings", 3, R"("settings" is 3, expected an object)"},
      {"/preset", nullptr, R"("preset" is null, expected a text)"},
      {"/preset", 3, R"("preset" is 3, expected a text)"},
      {"/cells/1", 7, "cell 1 is 7, expected an object"},
      {"/cells/1/groups", nullptr,
       R"(cell 1: "groups" is null, expected a whole number of at least 1)"},
      {"/cells/0/groups", 5, "cell 0: --groups 5: expected a divisor of --channels 32"},
      {"/cells/0/seed", -1, R"(cell 0: "seed" is -1, expected a whole number of at least 0)"},
      {"/cells/0/learning_rate", "1", R"(cell 0: "learning_rate" is "1", expected a number)"},
      {"/cells/1/id", whole["cells"][0]["id"],
       "cell 1: there are two of the id \"G1-seed0-lr0.001\""},
  };
  for (const auto& [place, value, message] : cases) {
    Json json = whole;
    json[Json::json_pointer(place)] = value;
    EXPECT_EQ(refusal(json.dump()), message);
  }
  for (const auto& [id, shown] : std::map<std::string, std::string>{
           {"../elsewhere", "\"../elsewhere\""},
           {"", "\"\""},
           {".", "\".\""},
           {"a/b", "\"a/b\""},
           {std::string("a\0b", 3), "\"a\\x00b\""},
           {std::string(256, 'a'), '"' + std::string(40, 'a') + "\"..."}}) {
    Json json = whole;
    json["cells"][0]["id"] = id;
    EXPECT_EQ(refusal(json.dump()),
              "cell 0: \"id\" is " + shown + ", which is no name for a folder");
  }
  for (const char* key : {"preset", "settings", "cells"}) {
    Json json = whole;
    json.erase(key);
    EXPECT_NE(refusal(json.dump()), "no error") << key;
  }
}

TEST(NormSweep, RankCorrelation) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_DOUBLE_EQ(spearman({1, 2, 4, 8}, {0, 1, 10, 11}), 1);
  EXPECT_DOUBLE_EQ(spearman({1, 2, 4, 8}, {3, 2, 1, 0}), -1);
  // scipy.stats.spearmanr([1, 2, 4, 8, 16], [1, 3, 3, 2, 9]) = 0.6668859288553503
  EXPECT_NEAR(spearman({1, 2, 4, 8, 16}, {1, 3, 3, 2, 9}), 0.6668859288553503, 1e-15);
  EXPECT_TRUE(std::isnan(spearman({1}, {1})));
  EXPECT_TRUE(std::isnan(spearman({}, {})));
  EXPECT_TRUE(std::isnan(spearman({1, 2}, {5, 5})));
  EXPECT_TRUE(std::isnan(spearman({1, 2}, {5, nan})));
}

// Summaries as finished cells leave them.
class Collect : public testing::Test {
 protected:
  Collect() {
    plan_ = plan_sweep("demo", {{"groups", {1, 4}}, {"seeds", 2}, {"learning_rates", {1, 2, 3}}});
  }
  void finish(const std::string& id, double distance, const Json& slope, double localized = 0) {
    const std::filesystem::path cell = folder_.path() / "cells" / id;
    std::filesystem::create_directories(cell);
    const auto found = std::find_if(plan_.cells.begin(), plan_.cells.end(),
                                    [&](const NormSweep::Cell& c) { return c.id == id; });
    const auto number = static_cast<std::size_t>(found - plan_.cells.begin());
    std::ofstream(cell / "config.json") << Json{{"settings", to_json(plan_.settings_of(number))}};
    std::ofstream(cell / "summary.json")
        << Json{{"final_loss", 0.01},
                {"localization_distance", distance},
                {"unbroken_distance", distance - 1},
                {"interior_slope", slope},
                {"localized_fraction", {0.1, (localized > 0 ? localized : distance) / 32}},
                {"interior_localized_fraction", {nullptr, 0.5}},
                {"seconds", distance * 1.5}};
  }
  TemporaryFolder folder_;
  NormSweep plan_;
};

TEST_F(Collect, TakesTheBestLearningRateOfEachSeed) {
  finish("G1-seed0-lr1", 7, 0.1);
  finish("G1-seed0-lr2", 9, 0.2);
  finish("G1-seed0-lr3", 20, 0.9, 8);  // farther, and fewer of them
  finish("G1-seed1-lr1", 11, 0.2);
  finish("G1-seed1-lr2", 11, 0.4);  // as many, and steeper
  finish("G1-seed1-lr3", 11, nullptr);
  finish("G4-seed0-lr1", 20, 0.5);
  const Json results = collect(folder_.path(), plan_);
  EXPECT_EQ(results["planned"], 12);
  EXPECT_EQ(results["finished"], 7);
  ASSERT_EQ(results["cells"].size(), 12u);
  std::vector<std::string> best;
  for (const Json& cell : results["best"]) best.push_back(cell["id"]);
  EXPECT_EQ(best, (std::vector<std::string>{"G1-seed0-lr2", "G1-seed1-lr2", "G4-seed0-lr1"}));
  ASSERT_EQ(results["by_groups"].size(), 2u);
  const Json& one = results["by_groups"][0];
  EXPECT_EQ(one["groups"], 1);
  EXPECT_EQ(one["seeds"], 2);
  EXPECT_EQ(one["localization_distance"]["mean"], 10.0);
  EXPECT_NEAR(one["localization_distance"]["deviation"].get<double>(), std::sqrt(2.0), 1e-15);
  EXPECT_EQ(one["localization_distance"]["least"], 9.0);
  EXPECT_EQ(one["localization_distance"]["most"], 11.0);
  EXPECT_EQ(one["unbroken_distance"]["mean"], 9.0);
  EXPECT_NEAR(one["interior_slope"]["mean"].get<double>(), 0.3, 1e-15);
  EXPECT_NEAR(one["localized_fraction"]["mean"].get<double>(), 10 / 32.0, 1e-15);
  const Json& four = results["by_groups"][1];
  EXPECT_EQ(four["seeds"], 1);
  EXPECT_EQ(four["localization_distance"]["mean"], 20.0);
  EXPECT_TRUE(four["localization_distance"]["deviation"].is_null());
  EXPECT_EQ(results["spearman"]["localization_distance"], 1.0);
  EXPECT_TRUE(results["spearman"]["interior_localized_fraction"].is_null());  // both 0.5
}

TEST_F(Collect, WorksOnWhateverIsThere) {
  Json results = collect(folder_.path(), plan_);  // nothing at all
  EXPECT_EQ(results["finished"], 0);
  EXPECT_TRUE(results["by_groups"].empty());
  EXPECT_TRUE(results["spearman"]["interior_slope"].is_null());
  finish("G4-seed1-lr3", 3, nullptr);
  results = collect(folder_.path(), plan_);
  EXPECT_EQ(results["finished"], 1);
  EXPECT_TRUE(results["by_groups"][0]["interior_slope"]["mean"].is_null());
  std::ofstream(folder_.path() / "cells" / "G4-seed1-lr3" / "summary.json") << "{}";
  EXPECT_EQ(collect(folder_.path(), plan_)["finished"], 0);  // a file alone is no finished cell
}

// Another cell's folder in the place of this one, or a plan that was changed after the cell was
// made.
TEST_F(Collect, ResultsOfOtherSettingsDoNotCount) {
  finish("G1-seed0-lr1", 7, 0.1);
  finish("G4-seed0-lr1", 9, 0.2);
  const std::filesystem::path cells = folder_.path() / "cells";
  std::filesystem::copy(
      cells / "G1-seed0-lr1", cells / "G4-seed0-lr1",
      std::filesystem::copy_options::overwrite_existing | std::filesystem::copy_options::recursive);
  EXPECT_EQ(collect(folder_.path(), plan_)["finished"], 1);
  plan_.cells[0].learning_rate = 0.5;
  EXPECT_EQ(collect(folder_.path(), plan_)["finished"], 0);
  std::filesystem::remove(cells / "G1-seed0-lr1" / "config.json");
  EXPECT_EQ(collect(folder_.path(), plan_)["finished"], 0);
}

TEST_F(Collect, SaysNothingOfTimesAndOrder) {
  finish("G1-seed0-lr1", 7, 0.1);
  finish("G4-seed0-lr2", 9, 0.2);
  const std::string first = collect(folder_.path(), plan_).dump();
  std::filesystem::remove_all(folder_ / "cells");
  finish("G4-seed0-lr2", 9, 0.2);
  finish("G1-seed0-lr1", 7, 0.1);
  EXPECT_EQ(collect(folder_.path(), plan_).dump(), first);
  EXPECT_EQ(first.find("seconds"), std::string::npos);
}

// Where networks are evaluated with both statistics, a cell is finished with both.
TEST_F(Collect, PopulationStatisticsStandBesideThoseOfMinibatches) {
  const NormSweep plan =
      plan_sweep("demo", {{"samples_per_set", {1, 4}}, {"learning_rates", {1}}}, kSamplesPerSet);
  const auto leave = [&](std::size_t cell, const char* below, const LocalizationSettings& settings,
                         double loss, double slope) {
    const std::filesystem::path run = folder_.path() / "cells" / plan.cells[cell].id / below;
    std::filesystem::create_directories(run);
    std::ofstream(run / "config.json") << Json{{"settings", to_json(settings)}};
    std::ofstream(run / "summary.json")
        << Json{{"final_loss", loss},           {"localization_distance", 20},
                {"unbroken_distance", 16},      {"interior_slope", slope},
                {"localized_fraction", {0.75}}, {"interior_localized_fraction", {slope}}};
  };
  leave(0, "", plan.settings_of(0), 0.01, 0.5);
  EXPECT_EQ(collect(folder_.path(), plan)["finished"], 0);
  leave(0, kPopulation, plan.settings_of(0), 0.5, 0);  // with those of minibatches once more
  EXPECT_EQ(collect(folder_.path(), plan)["finished"], 0);
  leave(0, kPopulation, with_population(plan.settings_of(0)), 0.04, 0);
  leave(1, "", plan.settings_of(1), 0.02, 0.25);
  leave(1, kPopulation, with_population(plan.settings_of(1)), 0.03, 0.125);
  const Json results = collect(folder_.path(), plan);
  EXPECT_EQ(results["finished"], 2);
  const Json& rows = results["by_samples_per_set"];
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1]["samples_per_set"], 4);
  EXPECT_EQ(rows[0]["interior_slope"]["mean"], 0.5);
  EXPECT_EQ(rows[0]["population"]["interior_slope"]["mean"], 0.0);
  EXPECT_NEAR(rows[0]["population_gap"]["mean"].get<double>(), 0.03, 1e-15);
  EXPECT_NEAR(rows[1]["population_gap"]["mean"].get<double>(), 0.01, 1e-15);
  EXPECT_EQ(results["best"][0]["measures"]["population"]["final_loss"], 0.04);
  EXPECT_EQ(results["spearman"]["interior_slope"], -1.0);
  EXPECT_EQ(results["spearman"]["population_gap"], -1.0);
  EXPECT_EQ(results["spearman"]["population"]["interior_slope"], 1.0);
}

}  // namespace
}  // namespace sidechannel::experiments
