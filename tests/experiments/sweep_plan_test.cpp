// The plans of sweeps: over anything, and those with presets of their own.

#include "experiments/sweep/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "experiments/localization/settings.h"
#include "experiments/run/flags.h"
#include "tests/experiments/settings_check.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

using harness::TemporaryFolder;
using Texts = std::vector<std::string>;

// Of a program's preset demo.
SweepPlan plan_over(const Texts& over, const Texts& set = {},
                    const std::string& program = "localization") {
  return plan_sweep({.program = program, .over = over, .set = set});
}
// Of a sweep's own preset.
SweepPlan preset(const std::string& name, const Texts& over = {}, const Texts& set = {}) {
  return plan_sweep({.preset = name, .over = over, .set = set});
}

Texts ids_of(const SweepPlan& plan) {
  Texts ids;
  for (const SweepPlan::Cell& cell : plan.cells) ids.push_back(cell.id);
  return ids;
}

std::vector<Json> values(const std::string& text, const std::string& program = "localization") {
  return parse_axis(*swept_program(program, false), text).values;
}

// --- What there is to vary ----------------------------------------------------------------------

TEST(SweepAxis, ListsRangesAndSteps) {
  using All = std::vector<Json>;
  EXPECT_EQ(values("seed=0..4"), (All{0, 1, 2, 3, 4}));
  EXPECT_EQ(values("seed=7"), (All{7}));
  EXPECT_EQ(values("depth=12,8"), (All{12, 8}));
  EXPECT_EQ(values("length=64..256:64,300"), (All{64, 128, 192, 256, 300}));
  EXPECT_EQ(values("length=64:256:64"), (All{64, 128, 192, 256}));  // as of `overlap --overlaps`
  EXPECT_EQ(values("kernel_size=3..7:2"), (All{3, 5, 7}));
  EXPECT_EQ(values("kernel-size=3"), (All{3}));  // as the flag is written
  EXPECT_EQ(values("lr=0.5"), (All{0.5}));       // or may be
  EXPECT_EQ(values("learning_rate=1e-3,0.5"), (All{1e-3, 0.5}));
  EXPECT_EQ(values("norm=instance,group"), (All{"instance", "group"}));
  EXPECT_EQ(values("multipliers=1,2/1,4,8"), (All{"1,2", "1,4,8"}));
  EXPECT_EQ(values("overlap=0..8:4", "overlap"), (All{0, 4, 8}));
  EXPECT_EQ(values("dim=4..6", "diffusion"), (All{4, 5, 6}));
}

TEST(SweepAxis, WhatMakesNoSenseIsRefusedInWords) {
  const auto refusal = [](const std::string& text, const std::string& program = "localization") {
    return usage_error([&] { values(text, program); });
  };
  for (const std::string text : {"depth", "=3"}) {
    EXPECT_EQ(refusal(text), "--over " + text + ": expected NAME=VALUE, as in seed=0");
  }
  EXPECT_EQ(refusal(""), "--over \"\": expected NAME=VALUE, as in seed=0");
  EXPECT_EQ(refusal("lenght=3"),
            "--over lenght=3: localization has no setting lenght, did you mean length?");
  EXPECT_EQ(refusal("overlaps=3", "overlap"),
            "--over overlaps=3: overlap has no setting overlaps, did you mean overlap?");
  EXPECT_EQ(refusal("device=cpu"), "--over device=cpu: device is not for a sweep to set");
  EXPECT_EQ(refusal("depth=1"), "--over depth 1: expected a whole number from 2 to 1000");
  EXPECT_EQ(refusal("depth=1..3"), "--over depth 1: expected a whole number from 2 to 1000");
  EXPECT_EQ(refusal("depth="), "--over depth \"\": expected a whole number from 2 to 1000");
  EXPECT_EQ(refusal("depth=8,"), "--over depth \"\": expected a whole number from 2 to 1000");
  EXPECT_EQ(refusal("kernel_size=3..5"),
            "--over kernel_size 4: expected an odd number from 1 to 999");
  const std::string form = ": expected a list of numbers and of FIRST..LAST:STEP, as in 0..32:4,33";
  for (const char* text : {"8..", "..8", "1.5", "0..1..2", "8:9:1:1", "8...9", "8..9:x"}) {
    EXPECT_EQ(refusal(std::string("depth=") + text), std::string("--over depth ") + text + form);
  }
  EXPECT_EQ(refusal("seed=4..0"), "--over seed 4..0: is an empty range");
  EXPECT_EQ(refusal("seed=0..4:0"), "--over seed 0..4:0: is an empty range");
  EXPECT_EQ(refusal("seed=0..9223372036854775807"),
            "--over seed 0..9223372036854775807: more than 10000 values");
  EXPECT_EQ(refusal("seed=0..4,3"), "--over seed 0..4,3: names 3 twice");
  EXPECT_EQ(refusal("learning_rate=1e-3,0.001"),
            "--over learning_rate 1e-3,0.001: names 0.001 twice");
  EXPECT_EQ(refusal("learning_rate=0..1"),
            "--over learning_rate 0..1: expected a number of at least 1e-30 and at most 1e+30");
  EXPECT_EQ(refusal("norm=instance,instance"),
            "--over norm instance,instance: names instance twice");
  EXPECT_EQ(refusal("norm=batches").find("--over norm batches: expected "), 0u);
}

TEST(SweepPlan, CellsAreAllCombinationsInOrder) {
  const SweepPlan plan = plan_over({"depth=8,12", "seed=0..1", "norm=instance,none"});
  EXPECT_EQ(ids_of(plan), (Texts{"depth=8,seed=0,norm=instance", "depth=12,seed=0,norm=instance",
                                 "depth=8,seed=1,norm=instance", "depth=12,seed=1,norm=instance",
                                 "depth=8,seed=0,norm=none", "depth=12,seed=0,norm=none",
                                 "depth=8,seed=1,norm=none", "depth=12,seed=1,norm=none"}));
  expect_settings(plan.settings_of(3), R"({"depth": 12, "seed": 1, "norm": "instance"})");
  // What a preset has for a kind of norm holds where that is the cell's.
  EXPECT_FALSE(plan.settings.contains("iterations"));
  expect_settings(plan.settings_of(3), R"({"iterations": 10000, "length": 64})");
  expect_settings(plan.settings_of(7), R"({"iterations": 4000, "length": 64})");
  EXPECT_EQ(plan.cells[7].settings, parse_json(R"({"depth": 12, "seed": 1, "norm": "none",
      "iterations": 4000})",
                                               "expected"));
  // Each is the run that the program would make of the same flags.
  RunFlags flags;
  flags.given = {{"depth", 12}, {"seed", 1}, {"norm", "none"}};
  Json own = to_json(resolve<LocalizationSettings>(flags));
  for (const std::string& name : do_not_matter()) own.erase(name);
  EXPECT_TRUE(differences(own, plan.settings_of(7), {}).empty());
  EXPECT_EQ(own.size(), plan.settings_of(7).size());
}

TEST(SweepPlan, EveryProgramThatMakesRuns) {
  const SweepPlan pairs = plan_over({"overlap=0..33:11", "kernel_size=5,7"}, {}, "overlap");
  ASSERT_EQ(pairs.cells.size(), 8u);
  EXPECT_EQ(pairs.cells[1].id, "overlap=11,kernel_size=5");
  EXPECT_FALSE(pairs.settings_of(0).contains("overlaps"));
  const SweepPlan planners =
      plan_over({"norm=group,none", "multipliers=1/1,1"}, {"iterations=5"}, "diffusion");
  ASSERT_EQ(planners.cells.size(), 4u);
  EXPECT_EQ(planners.cells[3].id, "norm=none,multipliers=1,1");
  expect_settings(planners.settings_of(3), R"({"iterations": 5, "multipliers": "1,1"})");
  EXPECT_EQ(usage_error([] { plan_over({"seed=0"}, {}, "leak"); }),
            "--program leak: expected localization, overlap or diffusion");
}

TEST(SweepPlan, CellsThatMakeNoSenseAreNamedAllOfThem) {
  const auto refusal = [](const Texts& over, const Texts& set = {}) {
    return usage_error([&] { plan_over(over, set); });
  };
  EXPECT_EQ(
      refusal({"norm=instance,group", "groups=4,5", "seed=0"}),
      "3 of 4 cells make no sense: --groups 4: has no effect without --norm group or "
      "group_population (norm=instance,groups=4,seed=0); --groups 5: has no effect without "
      "--norm group or group_population (norm=instance,groups=5,seed=0); --groups 5: expected "
      "a divisor of --channels 32 (norm=group,groups=5,seed=0)");
  EXPECT_EQ(refusal({"norm=none,group", "seed=0..1"}, {"groups=5"}),
            "2 of 4 cells make no sense: --groups 5: expected a divisor of --channels 32 "
            "(norm=group,seed=0 norm=group,seed=1)");
  // What is so everywhere is no matter of a cell.
  EXPECT_EQ(refusal({"seed=0..4"}, {"norm=group", "groups=5"}),
            "--groups 5: expected a divisor of --channels 32");
  // What is set must do something somewhere; what is varied, everywhere.
  EXPECT_EQ(refusal({"norm=none,group"}, {"groups=4"}), "");
  EXPECT_EQ(refusal({"norm=none,instance"}, {"groups=4"}),
            "--groups 4: has no effect without --norm group or group_population");
  EXPECT_EQ(refusal({"probe_width=16"}, {"probes=none"}),
            "--probe-width 16: has no effect without --probes all or last");
  EXPECT_EQ(refusal({"probe-lr=1e-3,1e-2"}, {"probes=last"}), "");
  // Of many, some.
  EXPECT_TRUE(refusal({"seed=0..19", "norm=group,none"}, {"groups=5"})
                  .ends_with("norm=group and 12 more)"));
}

TEST(SweepPlan, WhatMakesNoSenseIsRefusedInWords) {
  const auto refusal = [](const SweepRequest& request) {
    return usage_error([&] { plan_sweep(request); });
  };
  EXPECT_EQ(
      refusal({}),
      "expected --program (localization, overlap or diffusion) and --over, or --preset with a "
      "sweep, such as groups/demo");
  EXPECT_EQ(refusal({.preset = "demo", .over = {"seed=0"}}),
            "--preset demo: expected groups/ or crosstalk/ with demo, small or paper, or a .json "
            "file; or --program, whose preset it is");
  EXPECT_EQ(refusal({.preset = "groups/huge"}),
            "--preset huge: expected demo, small, paper or a .json file");
  EXPECT_EQ(refusal({.program = "localization", .preset = "huge", .over = {"seed=0"}}),
            "--preset huge: expected demo, small, paper or a .json file");
  EXPECT_EQ(refusal({.program = "localization"}), "expected --over, as in --over seed=0..4");
  EXPECT_EQ(refusal({.program = "localization", .over = {"seed=0", "seed=1"}}),
            "--over seed: is given twice");
  EXPECT_EQ(refusal({.program = "localization", .over = {"seed=0"}, .set = {"seed=1"}}),
            "--set seed: the sweep is over it");
  EXPECT_EQ(refusal({.program = "localization", .over = {"seed=0"}, .set = {"depth=1"}}),
            "--set depth 1: expected a whole number from 2 to 1000");
  EXPECT_EQ(refusal({.program = "localization", .over = {"seed=0"}, .set = {"threads=1"}}),
            "--set threads=1: threads is not for a sweep to set");
  EXPECT_EQ(refusal({.program = "localization", .over = {"seed=0..999", "depth=2..12"}}),
            "a sweep over 1000 of seed, 11 of depth has 11000 cells, expected at most 10000");
  EXPECT_EQ(refusal({.program = "overlap", .over = {"seed=0"}, .population = true}),
            "--population: is of localization alone");
  EXPECT_EQ(refusal({.program = "localization", .over = {"seed=0"}, .population = true}),
            "--eval-statistics population: instance norm has no running statistics");
  EXPECT_EQ(refusal({.program = "localization",
                     .over = {"seed=0"},
                     .set = {"norm=batch", "eval_statistics=population"},
                     .population = true}),
            "--eval-statistics population: has no effect with --population");
}

TEST(SweepPlan, APresetOfOnesOwn) {
  const TemporaryFolder folder;
  const std::string file = folder / "own.json";
  const auto refusal = [&](const std::string& text) {
    std::ofstream(file) << text;
    const std::string said = usage_error([&] { preset(file); });
    return said.starts_with(file + ": ") ? said.substr(file.size() + 2) : said;
  };
  EXPECT_EQ(refusal(R"({"program": "overlap", "over": ["seed=0..2"], "depth": 4})"), "");
  EXPECT_EQ(preset(file).cells.size(), 3u);
  EXPECT_EQ(preset(file).settings["depth"], 4);
  EXPECT_EQ(refusal("{}"), "has no \"program\"");
  EXPECT_EQ(refusal(R"({"program": 3})"), "\"program\" is 3, expected a text");
  EXPECT_EQ(refusal(R"({"program": "overlap"})"), "has no \"over\"");
  EXPECT_EQ(refusal(R"({"program": "overlap", "over": [3]})"), "over is 3, expected a text");
  EXPECT_EQ(refusal(R"({"program": "overlap", "over": []})"),
            "expected --over, as in --over seed=0..4");
  EXPECT_EQ(refusal(R"({"program": "overlap", "over": ["seed=0", "seed=1"]})"),
            "--over seed: is given twice");
  EXPECT_EQ(refusal(R"({"program": "overlap", "over": ["depth=1"]})"),
            "--over depth 1: expected a whole number from 2 to 1000");
  EXPECT_EQ(refusal(R"({"program": "overlap", "over": ["seed=0"], "device": "cpu"})"),
            "device is not for a sweep to set");
  EXPECT_EQ(refusal(R"({"program": "localization", "over": ["seed=0"],
                        "for_norm": {"none": {"threads": 1}}})"),
            "threads is not for a sweep to set");
  EXPECT_EQ(refusal(R"({"program": "fly", "over": ["seed=0"]})"),
            "--program fly: expected localization, overlap or diffusion");
  EXPECT_EQ(refusal(R"({"program": "overlap", "over": ["seed=0"], "lenght": 3})"),
            "there is no setting lenght");
  EXPECT_EQ(refusal(R"({"program": "overlap", "over": ["seed=0"], "choose": "best"})"),
            "--choose best: expected AXIS=max:MEASURE,min:MEASURE,...");
}

TEST(SweepChoice, AxesMeasuresAndWhichWay) {
  const auto program = swept_program("localization", false);
  const auto choice_of = [&](const std::string& text, const std::vector<std::string>& axes) {
    return parse_choice(*program, text, axes);
  };
  const Choice choice = choice_of("learning-rate=max:a,min:b.c", {"seed", "learning_rate"});
  EXPECT_EQ(choice.axis, "learning_rate");
  EXPECT_EQ(choice.text, "learning_rate=max:a,min:b.c");
  EXPECT_EQ(choice_of("lr=max:a", {"learning_rate"}).text, "learning_rate=max:a");
  ASSERT_EQ(choice.by.size(), 2u);
  EXPECT_TRUE(choice.by[0].most && choice.by[0].name == "a");
  EXPECT_TRUE(!choice.by[1].most && choice.by[1].name == "b.c");
  const auto refusal = [&](const std::string& text) {
    return usage_error([&] { choice_of(text, {"seed", "depth"}); });
  };
  EXPECT_EQ(refusal("norm=max:x"), "--choose norm=max:x: the sweep is over seed, depth");
  for (const std::string text : {"seed=", "seed=x", "seed=max:", "seed=max:x,", "seed=most:x"}) {
    EXPECT_EQ(refusal(text), "--choose " + text + ": expected AXIS=max:MEASURE,min:MEASURE,...");
  }
}

// --- The paper's -------------------------------------------------------------------------------

TEST(SweepPresets, MakeSense) {
  for (const char* sweep : {"groups", "crosstalk"}) {
    for (const char* scale : {"demo", "small", "paper"}) {
      const std::string name = fmt::format("{}/{}", sweep, scale);
      const SweepPlan plan = preset(name);
      EXPECT_GE(plan.cells.size(), 3u) << name;
      EXPECT_EQ(plan.preset, name);
      EXPECT_EQ(plan.population, plan.axes.front() == "samples_per_set") << name;
      EXPECT_EQ(plan.axes[1], "learning_rate");
      EXPECT_EQ(plan.axes[2], "seed");
      EXPECT_EQ(plan.choose, "learning_rate=max:localized_fraction,max:interior_slope");
      EXPECT_EQ(plan.settings["norm"], plan.population ? "batch" : "group");
    }
  }
}

// Each batch is the same 32 sequences, however they are put together.
TEST(SweepPresets, CrosstalkChangesNothingButTheSets) {
  for (const char* name : {"crosstalk/small", "crosstalk/paper"}) {
    const SweepPlan plan = preset(name);
    std::set<std::int64_t> sets;
    for (const SweepPlan::Cell& cell : plan.cells) {
      sets.insert(cell.settings["samples_per_set"].get<std::int64_t>());
      EXPECT_EQ(cell.settings.size(), 3u) << name;
    }
    EXPECT_EQ(sets, (std::set<std::int64_t>{1, 2, 4, 8, 16, 32})) << name;
  }
}

TEST(SweepPresets, ThePaperOfGroupsIsAppendixDAndE) {
  const SweepPlan plan = preset("groups/paper");
  ASSERT_EQ(plan.cells.size(), 140u);  // 7 numbers of groups, 5 seeds, 4 learning rates
  std::set<std::int64_t> groups;
  std::set<double> rates;
  for (const SweepPlan::Cell& cell : plan.cells) {
    groups.insert(cell.settings["groups"].get<std::int64_t>());
    rates.insert(cell.settings["learning_rate"].get<double>());
  }
  EXPECT_EQ(groups, (std::set<std::int64_t>{1, 2, 4, 8, 16, 32, 64}));
  ASSERT_EQ(rates.size(), 4u);
  double rate = 1e-5;
  for (const double found : rates) {
    EXPECT_DOUBLE_EQ(found, rate);
    rate *= 4;
  }
  expect_settings(plan.settings_of(139), R"({"length": 600, "channels": 64, "iterations": 100000,
      "batch": 32, "schedule": "constant", "probe_width": 256, "probe_iterations": 5000,
      "map_samples": 3200000, "seed": 4, "groups": 64, "depth": 32, "kernel_size": 5})");
}

TEST(SweepPresets, OnesOwnValuesLieOverThem) {
  const SweepPlan plan = preset(
      "groups/paper", {"groups=1,4", "seed=0..1", "learning_rate=1e-5,1.6e-4"}, {"length=64"});
  EXPECT_EQ(
      ids_of(plan),
      (Texts{"groups=1,learning_rate=1e-05,seed=0", "groups=4,learning_rate=1e-05,seed=0",
             "groups=1,learning_rate=0.00016,seed=0", "groups=4,learning_rate=0.00016,seed=0",
             "groups=1,learning_rate=1e-05,seed=1", "groups=4,learning_rate=1e-05,seed=1",
             "groups=1,learning_rate=0.00016,seed=1", "groups=4,learning_rate=0.00016,seed=1"}));
  expect_settings(plan.settings_of(3),
                  R"({"groups": 4, "seed": 0, "learning_rate": 1.6e-4, "length": 64})");
  // Another axis comes behind them.
  EXPECT_EQ(preset("groups/demo", {"depth=4,8"}).axes,
            (Texts{"groups", "learning_rate", "seed", "depth"}));
}

// --- plan.json ---------------------------------------------------------------------------------

TEST(SweepPlan, IsWrittenOnce) {
  const TemporaryFolder folder;
  const SweepPlan plan = preset("groups/demo");
  EXPECT_FALSE(has_plan(folder.path()));
  write_plan(folder.path(), plan);
  const std::string written = harness::content_of(folder / "plan.json");
  write_plan(folder.path(), plan);
  EXPECT_EQ(harness::content_of(folder / "plan.json"), written);
  const SweepPlan read = read_plan(folder.path());
  EXPECT_EQ(ids_of(read), ids_of(plan));
  EXPECT_EQ(read.choose, plan.choose);
  for (std::size_t i = 0; i < read.cells.size(); ++i) {
    EXPECT_EQ(read.settings_of(i), plan.settings_of(i));
  }
  const auto refusal = [&](const SweepPlan& other) {
    const std::string said = usage_error([&] { write_plan(folder.path(), other); });
    const std::string begin = folder.path().string() + " holds ", end = "; choose another --out";
    EXPECT_TRUE(said.starts_with(begin) && said.ends_with(end)) << said;
    return said.substr(begin.size(), said.size() - begin.size() - end.size());
  };
  EXPECT_EQ(refusal(preset("groups/demo", {}, {"iterations=7"})),
            "a sweep with other settings (iterations is 5000 there, 7 here)");
  EXPECT_EQ(refusal(preset("groups/demo", {"seed=0..77"})),
            "a sweep of other values of groups, learning_rate, seed");
  EXPECT_EQ(refusal(preset("crosstalk/demo")), "a sweep without --population");
  EXPECT_EQ(refusal(plan_over({"seed=0..3"})),
            "a sweep over groups, learning_rate, seed, not seed");
  EXPECT_EQ(refusal(plan_over({"seed=0..3"}, {}, "overlap")),
            "a sweep of localization, not overlap");
  EXPECT_EQ(harness::content_of(folder / "plan.json"), written);
}

TEST(DamagedPlan, EveryFieldIsCheckedInItsOwnWords) {
  const TemporaryFolder folder;
  write_plan(folder.path(), preset("groups/demo"));
  const std::string path = folder / "plan.json";
  const Json whole = read_json(path);
  const auto refusal = [&](const std::string& text) {
    std::ofstream(path) << text;
    const std::string message = harness::error_of([&] { read_plan(folder.path()); });
    return message.starts_with(path + ": ") ? message.substr(path.size() + 2) : message;
  };
  EXPECT_EQ(refusal(whole.dump()), "no error");
  EXPECT_EQ(refusal("{"), "expected JSON, got its end at line 1, column 2");
  EXPECT_EQ(refusal("{\"experiment\": \"overlap\"}"), "not a plan of a sweep but of overlap");
  // Those of the program that this one took the place of.
  for (const char* old : {"groups", "crosstalk"}) {
    EXPECT_EQ(refusal(fmt::format(R"({{"experiment": "{}", "cells": []}})", old)),
              "is of the program groups, of an earlier version, which alone continues and collects "
              "it; choose another --out");
  }
  const struct {
    const char* place;
    Json value;
    std::string message;
  } cases[] = {
      {"/program", "leak", "--program leak: expected localization, overlap or diffusion"},
      {"/population", "no", R"("population" is "no", expected true or false)"},
      {"/population", true,
       "cell 0: --eval-statistics population: group norm has no running statistics"},
      {"/over", 3, R"("over" is 3, expected a list)"},
      {"/over/0", 3, R"("over" is 3, expected a text)"},
      {"/over/0", "depth", R"(cell 0: has no "depth")"},
      {"/over/0", "seed", R"("over" names seed twice)"},
      {"/settings/threads", 1, "cell 0: threads: is not for a sweep to set"},
      {"/choose", "depth=max:x",
       R"(--choose depth=max:x: the sweep is over groups, learning_rate, seed)"},
      {"/cells", Json::array(), R"("cells" is an empty list, expected at least one cell)"},
      {"/cells", nullptr, R"("cells" is null, expected a list)"},
      {"/cells", 3, R"("cells" is 3, expected a list)"},
      {"/settings", 3, R"("settings" is 3, expected an object)"},
      {"/settings/depth", 1, "cell 0: --depth 1: expected a whole number from 2 to 1000"},
      {"/preset", nullptr, R"("preset" is null, expected a text)"},
      {"/cells/1", 7, "cell 1 is 7, expected an object"},
      {"/cells/1/settings", 7, R"(cell 1: "settings" is 7, expected an object)"},
      {"/cells/1/settings/groups", nullptr,
       "cell 1: --groups null: expected a whole number from 1 to 16384"},
      {"/cells/0/settings/groups", 5, "cell 0: --groups 5: expected a divisor of --channels 32"},
      {"/cells/1/id", whole["cells"][0]["id"],
       "cell 1: there are two of the id \"groups=1,learning_rate=0.001,seed=0\""},
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
  for (const auto& item : whole.items()) {
    Json json = whole;
    json.erase(item.key());
    EXPECT_NE(refusal(json.dump()), "no error") << item.key();
  }
}

}  // namespace
}  // namespace sidechannel::experiments
