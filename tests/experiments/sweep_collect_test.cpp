// The results of sweeps, as finished cells leave them.

#include "experiments/sweep/collect.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <sstream>

#include "experiments/sweep/plan.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

using harness::TemporaryFolder;
using Texts = std::vector<std::string>;

TEST(Collect, RankCorrelation) {
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

TEST(Collect, EveryNumberByItsName) {
  const Json json = parse_json(R"({"a": 1, "b": {"c": 2.5, "d": {"e": null}}, "f": [3, 4],
      "text": "x", "is": true, "g": []})",
                               "json");
  EXPECT_EQ(flat_numbers(json).dump(), R"({"a":1,"b.c":2.5,"b.d.e":null,"f.0":3,"f.1":4})");
}

// Summaries as finished cells leave them.
class CollectSweep : public testing::Test {
 protected:
  CollectSweep()
      : plan_(plan_sweep({.preset = "groups/demo",
                          .over = {"groups=1,4", "seed=0..1", "learning_rate=1,2,3"}})) {}

  static std::string cell_id(int groups, int seed, int rate) {
    return fmt::format("groups={},learning_rate={}.0,seed={}", groups, rate, seed);
  }
  std::size_t number(const std::string& id) const {
    const auto found = std::ranges::find(plan_.cells, id, &SweepPlan::Cell::id);
    EXPECT_NE(found, plan_.cells.end()) << id;
    return static_cast<std::size_t>(found - plan_.cells.begin());
  }
  std::filesystem::path cell(const std::string& id) const { return folder_.path() / "cells" / id; }
  void finish(const std::string& id, double distance, const Json& slope, double localized = 0) {
    std::filesystem::create_directories(cell(id));
    std::ofstream(cell(id) / "config.json") << Json{{"settings", plan_.settings_of(number(id))}};
    std::ofstream(cell(id) / "summary.json")
        << Json{{"norm", "group"},
                {"length", 64},
                {"final_loss", 0.01},
                {"localization_distance", distance},
                {"localization_distances", {1, distance}},
                {"unbroken_distance", distance - 1},
                {"interior_slope", slope},
                {"localized_fraction", {0.1, (localized > 0 ? localized : distance) / 32}},
                {"interior_localized_fraction", {nullptr, 0.5}},
                {"notice", distance < 4 ? Json("it learned nothing") : Json()},
                {"seconds", distance * 1.5}};
  }
  TemporaryFolder folder_;
  SweepPlan plan_;
};

TEST_F(CollectSweep, TakesTheBestLearningRateOfEachSeed) {
  finish(cell_id(1, 0, 1), 7, 0.1);
  finish(cell_id(1, 0, 2), 9, 0.2);
  finish(cell_id(1, 0, 3), 20, 0.9, 8);  // farther, and fewer of them
  finish(cell_id(1, 1, 1), 11, 0.2);
  finish(cell_id(1, 1, 2), 11, 0.4);  // as many, and steeper
  finish(cell_id(1, 1, 3), 11, nullptr);
  finish(cell_id(4, 0, 1), 20, 0.5);
  const Json results = collect(folder_.path(), plan_);
  EXPECT_EQ(results["planned"], 12);
  EXPECT_EQ(results["finished"], 7);
  ASSERT_EQ(results["cells"].size(), 12u);
  Texts best;
  for (const Json& cell : results["best"]) best.push_back(cell["id"]);
  EXPECT_EQ(best, (Texts{cell_id(1, 0, 2), cell_id(1, 1, 2), cell_id(4, 0, 1)}));
  ASSERT_EQ(results["rows"].size(), 2u);
  const Json& one = results["rows"][0];
  EXPECT_EQ(one["groups"], 1);
  EXPECT_EQ(one["seeds"], 2);
  EXPECT_EQ(one["localization_distance"]["mean"], 10.0);
  EXPECT_NEAR(one["localization_distance"]["deviation"].get<double>(), std::sqrt(2.0), 1e-15);
  EXPECT_EQ(one["localization_distance"]["least"], 9.0);
  EXPECT_EQ(one["localization_distance"]["most"], 11.0);
  EXPECT_EQ(one["unbroken_distance"]["mean"], 9.0);
  EXPECT_NEAR(one["interior_slope"]["mean"].get<double>(), 0.3, 1e-15);
  EXPECT_NEAR(one["localized_fraction"]["mean"].get<double>(), 10 / 32.0, 1e-15);
  const Json& four = results["rows"][1];
  EXPECT_EQ(four["seeds"], 1);
  EXPECT_EQ(four["localization_distance"]["mean"], 20.0);
  EXPECT_TRUE(four["localization_distance"]["deviation"].is_null());
  EXPECT_EQ(results["spearman"]["localization_distance"], 1.0);
  EXPECT_TRUE(results["spearman"]["interior_localized_fraction"].is_null());  // both 0.5

  // By another measure, and the least of it.
  const Json other = collect(folder_.path(), plan_, "learning_rate=min:localization_distance");
  best.clear();
  for (const Json& cell : other["best"]) best.push_back(cell["id"]);
  EXPECT_EQ(best, (Texts{cell_id(1, 0, 1), cell_id(1, 1, 1), cell_id(4, 0, 1)}));
  // Seeds may be chosen on: then there is a row for each learning rate.
  EXPECT_EQ(collect(folder_.path(), plan_, "seed=max:final_loss")["by"],
            Json(Texts{"groups", "learning_rate"}));
  EXPECT_EQ(harness::error_of([&] { collect(folder_.path(), plan_, "seed=max:loss"); }),
            "--choose: groups=1,learning_rate=1.0,seed=0 has no measure loss; it has final_loss, "
            "localization_distance, unbroken_distance, interior_slope, localized_fraction, "
            "interior_localized_fraction");
}

// Without a choice each counts.
TEST_F(CollectSweep, OverAnything) {
  plan_ = plan_sweep(
      {.program = "localization", .over = {"norm=instance,none", "depth=8,12", "seed=0..2"}});
  for (const SweepPlan::Cell& cell : plan_.cells) {
    finish(cell.id, cell.id.ends_with("seed=2") ? 11 : 8, 0.5);
  }
  const Json results = collect(folder_.path(), plan_);
  EXPECT_FALSE(results.contains("best"));
  EXPECT_EQ(results["by"], Json(Texts{"norm", "depth"}));
  ASSERT_EQ(results["rows"].size(), 4u);
  EXPECT_EQ(results["rows"][3]["norm"], "none");
  EXPECT_EQ(results["rows"][3]["depth"], 12);
  EXPECT_EQ(results["rows"][3]["seeds"], 3);
  EXPECT_EQ(results["rows"][3]["localization_distance"]["mean"], 9.0);
  EXPECT_TRUE(results["spearman"].is_null());
}

TEST_F(CollectSweep, ATableOfCells) {
  finish(cell_id(1, 0, 1), 7, 0.25);
  finish(cell_id(1, 0, 2), 16, nullptr);
  const std::string csv = to_csv(collect(folder_.path(), plan_));
  std::istringstream lines(csv);
  std::string line;
  std::getline(lines, line);
  EXPECT_EQ(line,
            "id,groups,learning_rate,seed,best,final_loss,localization_distance,unbroken_distance,"
            "interior_slope,localized_fraction,interior_localized_fraction");
  std::getline(lines, line);
  EXPECT_EQ(line, "\"groups=1,learning_rate=1.0,seed=0\",1,1.0,0,0,0.01,7.0,6.0,0.25,0.21875,0.5");
  std::getline(lines, line);  // of the other number of groups, which is not finished
  EXPECT_EQ(line, "\"groups=4,learning_rate=1.0,seed=0\",4,1.0,0,0,,,,,,");
  std::getline(lines, line);
  EXPECT_EQ(line, "\"groups=1,learning_rate=2.0,seed=0\",1,2.0,0,1,0.01,16.0,15.0,,0.5,0.5");
  EXPECT_EQ(std::ranges::count(csv, '\n'), 13);
}

TEST_F(CollectSweep, WorksOnWhateverIsThere) {
  Json results = collect(folder_.path(), plan_);  // nothing at all
  EXPECT_EQ(results["finished"], 0);
  EXPECT_TRUE(results["rows"].empty());
  EXPECT_EQ(std::ranges::count(to_csv(results), '\n'), 13);
  const std::string last = cell_id(4, 1, 3);
  finish(last, 3, nullptr);
  results = collect(folder_.path(), plan_);
  EXPECT_EQ(results["finished"], 1);
  EXPECT_EQ(results["cells"][number(last)]["notice"], "it learned nothing");
  EXPECT_TRUE(results["rows"][0]["interior_slope"]["mean"].is_null());
  EXPECT_TRUE(results["spearman"]["interior_slope"].is_null());
  std::ofstream(cell(last) / "summary.json") << "{}";
  EXPECT_EQ(collect(folder_.path(), plan_)["finished"], 0);  // a file alone is no finished cell
}

// Another cell's folder in the place of this one, or a plan that was changed after the cell was
// made.
TEST_F(CollectSweep, ResultsOfOtherSettingsDoNotCount) {
  finish(cell_id(1, 0, 1), 7, 0.1);
  finish(cell_id(4, 0, 1), 9, 0.2);
  std::filesystem::copy(
      cell(cell_id(1, 0, 1)), cell(cell_id(4, 0, 1)),
      std::filesystem::copy_options::overwrite_existing | std::filesystem::copy_options::recursive);
  EXPECT_EQ(collect(folder_.path(), plan_)["finished"], 1);
  plan_.cells[0].settings["learning_rate"] = 0.5;
  EXPECT_EQ(collect(folder_.path(), plan_)["finished"], 0);
  std::filesystem::remove(cell(cell_id(1, 0, 1)) / "config.json");
  EXPECT_EQ(collect(folder_.path(), plan_)["finished"], 0);
}

TEST_F(CollectSweep, SaysNothingOfTimesAndOrder) {
  finish(cell_id(1, 0, 1), 7, 0.1);
  finish(cell_id(4, 0, 2), 9, 0.2);
  const std::string first = collect(folder_.path(), plan_).dump();
  std::filesystem::remove_all(folder_ / "cells");
  finish(cell_id(4, 0, 2), 9, 0.2);
  finish(cell_id(1, 0, 1), 7, 0.1);
  EXPECT_EQ(collect(folder_.path(), plan_).dump(), first);
  EXPECT_EQ(first.find("seconds"), std::string::npos);
}

// Where networks are evaluated with both statistics, a cell is finished with both.
TEST_F(CollectSweep, PopulationStatisticsStandBesideThoseOfMinibatches) {
  const SweepPlan plan = plan_sweep(
      {.preset = "crosstalk/demo", .over = {"samples_per_set=1,4", "learning_rate=1", "seed=0"}});
  const auto leave = [&](std::size_t cell, const char* below, const char* statistics, double loss,
                         double slope) {
    const std::filesystem::path run = folder_.path() / "cells" / plan.cells[cell].id / below;
    std::filesystem::create_directories(run);
    Json settings = plan.settings_of(cell);
    settings["eval_statistics"] = statistics;
    std::ofstream(run / "config.json") << Json{{"settings", settings}};
    std::ofstream(run / "summary.json")
        << Json{{"final_loss", loss},           {"localization_distance", 20},
                {"unbroken_distance", 16},      {"interior_slope", slope},
                {"localized_fraction", {0.75}}, {"interior_localized_fraction", {slope}}};
  };
  leave(0, "", "minibatch", 0.01, 0.5);
  EXPECT_EQ(collect(folder_.path(), plan)["finished"], 0);
  leave(0, kPopulation, "minibatch", 0.5, 0);  // with those of minibatches once more
  EXPECT_EQ(collect(folder_.path(), plan)["finished"], 0);
  leave(0, kPopulation, "population", 0.04, 0);
  leave(1, "", "minibatch", 0.02, 0.25);
  leave(1, kPopulation, "population", 0.03, 0.125);
  const Json results = collect(folder_.path(), plan);
  EXPECT_EQ(results["finished"], 2);
  const Json& rows = results["rows"];
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[1]["samples_per_set"], 4);
  EXPECT_EQ(rows[0]["interior_slope"]["mean"], 0.5);
  EXPECT_EQ(rows[0]["population.interior_slope"]["mean"], 0.0);
  EXPECT_NEAR(rows[0]["population_gap"]["mean"].get<double>(), 0.03, 1e-15);
  EXPECT_NEAR(rows[1]["population_gap"]["mean"].get<double>(), 0.01, 1e-15);
  EXPECT_EQ(results["best"][0]["measures"]["population.final_loss"], 0.04);
  EXPECT_EQ(results["spearman"]["interior_slope"], -1.0);
  EXPECT_EQ(results["spearman"]["population_gap"], -1.0);
  EXPECT_EQ(results["spearman"]["population.interior_slope"], 1.0);
}

}  // namespace
}  // namespace sidechannel::experiments
