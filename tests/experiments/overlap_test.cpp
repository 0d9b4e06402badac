// The overlap experiment: its pairs, and runs of the program that are stopped, killed and resumed.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <map>

#include "engine/io/checkpoint.h"
#include "engine/io/npy.h"
#include "experiments/overlap/distinguish.h"
#include "experiments/run/interrupt.h"
#include "tests/experiments/settings_check.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

using harness::content_of;
using harness::error_of;
using harness::has;
using harness::ProgramResult;
using harness::run_program;
using harness::TemporaryFolder;
using harness::Words;
using harness::words;

constexpr int kInterrupted = kExitInterrupted;

// --- Settings -----------------------------------------------------------------------------------

TEST(OverlapSettings, PresetsMakeSenseAndEndWithIdenticalSequences) {
  for (const char* preset : {"demo", "small", "paper"}) {
    const auto settings = settings_from_preset<OverlapSettings>(preset);
    EXPECT_NO_THROW(settings.check()) << preset;
    EXPECT_EQ(settings.overlap_list().front(), 0) << preset;
    EXPECT_EQ(settings.overlap_list().back(), settings.length()) << preset;
  }
}

TEST(OverlapSettings, ThePaperPresetIsAppendixE) {
  const auto paper = settings_from_preset<OverlapSettings>("paper");
  expect_settings(to_json(paper), R"({"depth": 32, "kernel_size": 5, "channels": 64, "batch": 32,
      "iterations": 10000, "learning_rate": 1e-4, "schedule": "constant"})");
  EXPECT_EQ(paper.length(), 129);
}

TEST(OverlapSettings, ListsOfOverlaps) {
  const auto list = [](const std::string& text) {
    OverlapSettings settings;  // l = 33
    settings.overlaps = text;
    return settings.overlap_list();
  };
  const auto refusal = [&](const std::string& text) { return error_of([&] { list(text); }); };
  using List = std::vector<std::int64_t>;
  EXPECT_EQ(list("7"), (List{7}));
  EXPECT_EQ(list("33,0:8:4,4,5"), (List{0, 4, 5, 8, 33}));
  EXPECT_EQ(list("0:10:4"), (List{0, 4, 8}));
  EXPECT_EQ(list("3:5"), (List{3, 4, 5}));
  EXPECT_EQ(list("2:9:100"), (List{2}));
  EXPECT_EQ(list("33,0..8:4,4..5"), (List{0, 4, 5, 8, 33}));  // the same, as presets have it
  const std::string form = ": expected a list of numbers and of FIRST..LAST:STEP, as in 0..32:4,33";
  for (const char* text : {"x", "1,", "1:", ":3", "-1", "1.5", "0:3:x", "010", "0x1", "+1",
                           "1:4:9223372036854775808", "1:2:3:4"}) {
    EXPECT_EQ(refusal(text), "--overlaps " + std::string(text) + form);
  }
  EXPECT_EQ(refusal(""), "--overlaps \"\"" + form);
  EXPECT_EQ(refusal("1 2"), "--overlaps \"1 2\"" + form);
  EXPECT_EQ(list("1:4:9223372036854775807"), (List{1}));  // nothing beyond the largest number
  for (const auto& [text, message] :
       std::map<std::string, const char*>{{"34", "34, but the sequences are 33 long"},
                                          {"0:34:2", "34, but the sequences are 33 long"},
                                          {"8:4", "8:4 is an empty range"},
                                          {"1,4:8:0", "4:8:0 is an empty range"}}) {
    EXPECT_EQ(refusal(text), "--overlaps " + text + ": " + message);
  }
  OverlapSettings long_one;
  long_one.kernel_size = 999;
  long_one.overlaps = "0:5000";
  EXPECT_EQ(error_of([&] { long_one.overlap_list(); }),
            "--overlaps 0:5000: more than 1000 overlaps");
  long_one.depth = 1000;
  long_one.overlaps = "1";
  EXPECT_NO_THROW(long_one.check());  // the longest sequences that bounds allow: 998,001
}

// --- Pairs --------------------------------------------------------------------------------------

TEST(PairSource, SequencesShareTheirEndsAndNothingElse) {
  const Device& device = harness::device();
  constexpr std::int64_t kLength = 9, kPairs = 5;
  for (std::int64_t overlap = 0; overlap <= kLength; ++overlap) {
    const PairSource source(kLength, overlap, Stream::kNoise);
    Tape tape(device);
    Random random(device, 3);
    const Var x = source(tape, random, kPairs);
    ASSERT_TRUE((x.shape() == Shape{2 * kPairs, kLength, 1}));
    const std::vector<double> values = harness::values_of(x.value());
    for (std::int64_t pair = 0; pair < kPairs; ++pair) {
      const double* first = &values[static_cast<std::size_t>(2 * pair * kLength)];
      const double* second = first + kLength;
      // x~[i] = x[l - o + i]
      for (std::int64_t i = 0; i < overlap; ++i) EXPECT_EQ(second[i], first[kLength - overlap + i]);
      // All that they do not have to share are different draws.
      std::set<double> distinct(first, first + kLength);
      distinct.insert(second, second + kLength);
      EXPECT_EQ(static_cast<std::int64_t>(distinct.size()), 2 * kLength - overlap);
    }
  }
}

// --- The program --------------------------------------------------------------------------------

// Sequences of 9 positions; milliseconds an overlap.
Words tiny(const std::string& out, const Words& more = {}) {
  return harness::with(words("run --depth 4 --channels 8 --kernel-size 3 --batch 4 --iterations 40 "
                             "--test-pairs 50 --log-every 7 --overlaps 0:9:3 --threads 1 "
                             "--device cpu --out",
                             {out}),
                       more);
}

ProgramResult overlap(const std::string& out, const std::string& more = "") {
  return run_program("overlap", tiny(out, words(more)));
}

Json json_of(const std::string& path) {
  return Json::parse(content_of(path), nullptr, false);
}

// What must be equal, byte by byte, however often a run was stopped: all but the time it took.
void expect_same_results(const std::string& a, const std::string& b) {
  harness::expect_same_files(a, b, {"overlap.npy"});
  Json x = json_of(a + "/summary.json"), y = json_of(b + "/summary.json");
  for (Json* json : {&x, &y})
    for (Json& point : (*json)["points"]) point.erase("seconds");
  EXPECT_EQ(x.dump(), y.dump());
  for (const Json& point : x["points"]) {
    const std::string folder = fmt::format("/overlap-{:03}/", point["overlap"].get<int>());
    harness::expect_same_files(a + folder, b + folder, {"model.safetensors", "metrics.jsonl"});
  }
}

using Overlap = harness::FolderTest;

TEST_F(Overlap, LearnsWhatCanBeLearntAndNothingElse) {
  const ProgramResult result = overlap(
      folder_ / "run",
      "--overlaps 0,7,9 --iterations 2000 --batch 16 --learning-rate 3e-3 --test-pairs 2000");
  ASSERT_EQ(result.code, 0) << result.err;
  const Json points = json_of(folder_ / "run" + "/summary.json")["points"];
  ASSERT_EQ(points.size(), 3u);
  EXPECT_NEAR(points[0]["mse"].get<double>(), 1, 0.05);  // nothing shared
  EXPECT_LE(points[1]["mse"].get<double>(), 0.5);
  EXPECT_NEAR(points[2]["mse"].get<double>(), 1, 0.05);  // identical
  EXPECT_LT(points[1]["mean"][0].get<double>(), -0.5);
  EXPECT_GT(points[1]["mean"][1].get<double>(), 0.5);
}

TEST_F(Overlap, LeavesItsNumbersAsJsonAndNpy) {
  const ProgramResult result = overlap(out_);
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(harness::begins(result.out, out_ + ": mean squared error "));
  EXPECT_TRUE(harness::ends(result.out, " at 9 of 9 shared positions\n"));
  const Json json = json_of(out_ + "/summary.json");
  EXPECT_EQ(json["length"], 9);
  EXPECT_EQ(json["receptive_field"], 4);
  const HostArray array = read_npy(out_ + "/overlap.npy");
  ASSERT_TRUE((array.shape == Shape{4, 2}));
  for (std::size_t i = 0; i < 4; ++i) {
    const Json& point = json["points"][i];
    EXPECT_EQ(point["overlap"], 3 * i);
    EXPECT_EQ(point["pairs"], 50);
    EXPECT_EQ(point["seed"], 0);
    EXPECT_GE(point["seconds"].get<double>(), 0);
    EXPECT_EQ(array.as<double>()[2 * i], static_cast<double>(3 * i));
    EXPECT_EQ(array.as<double>()[2 * i + 1], point["mse"].get<double>());
    // What the mean and the variance of the answers make of it.
    double mse = 0;
    for (std::size_t j = 0; j < 2; ++j) {
      const double bias = point["mean"][j].get<double>() - (j == 0 ? -1 : 1);
      mse += (bias * bias + point["variance"][j].get<double>() * 49 / 50) / 2;
    }
    EXPECT_NEAR(point["mse"].get<double>(), mse, 1e-12);
  }
}

TEST_F(Overlap, StoppedAnywhereGivesTheSameResults) {
  ASSERT_EQ(overlap(folder_ / "whole").code, 0);
  const auto arguments = tiny(folder_ / "parts", {"--stop-after", "9"});
  EXPECT_GT(harness::runs_until_done("overlap", arguments), 4);
  expect_same_results(folder_ / "whole", folder_ / "parts");
}

TEST_F(Overlap, KilledAnywhereGivesTheSameResults) {
  const auto arguments = [&](const char* out) {
    return tiny(folder_ / out, {"--iterations", "1000", "--checkpoint-every", "20"});
  };
  ASSERT_EQ(run_program("overlap", arguments("whole")).code, 0);
  EXPECT_GT(harness::kill_repeatedly("overlap", arguments("killed"), 40), 3);
  ASSERT_EQ(run_program("overlap", arguments("killed")).code, 0);
  expect_same_results(folder_ / "whole", folder_ / "killed");
}

TEST_F(Overlap, ResultsDoNotDependOnThreadsOrJobs) {
  ASSERT_EQ(overlap(folder_ / "1").code, 0);
  for (const auto& [threads, jobs] :
       {std::pair{"2", "1"}, {"2", "2"}, {"3", "0"}, {"1", "3"}, {"4", "2"}}) {
    const std::string out = folder_ / fmt::format("{}-{}", threads, jobs);
    ASSERT_EQ(overlap(out, fmt::format("--threads {} --jobs {}", threads, jobs)).code, 0);
    expect_same_results(folder_ / "1", out);
  }
}

TEST_F(Overlap, FinishedOnesCostNothingAndOthersMayJoinThem) {
  ASSERT_EQ(overlap(out_).code, 0);
  const std::string before = content_of(out_ + "/summary.json");
  const ProgramResult again = overlap(out_);
  EXPECT_EQ(again.code, 0);
  EXPECT_EQ(again.out, out_ + ": done already, see summary.json\n");
  EXPECT_EQ(again.err, "");
  EXPECT_EQ(content_of(out_ + "/summary.json"), before);

  const ProgramResult more = overlap(out_, "--overlaps 0,4,9");
  EXPECT_EQ(more.code, 0);
  EXPECT_FALSE(has(more.err, "overlap-000")) << more.err;
  EXPECT_TRUE(has(more.err, "overlap-004"));
  EXPECT_EQ(json_of(out_ + "/summary.json")["points"].size(), 5u);
  EXPECT_TRUE((read_npy(out_ + "/overlap.npy").shape == Shape{5, 2}));

  harness::expect_refusal(overlap(out_, "--seed 1"), "overlap", 2,
                          out_ +
                              " holds a run with other settings (seed is 0 there, 1 here); "
                              "choose another --out");
}

TEST_F(Overlap, OneThatFailsDoesNotStopTheOthers) {
  ASSERT_EQ(overlap(out_, "--overlaps 0").code, 0);
  std::ofstream(out_ + "/overlap-003") << "no folder";
  const ProgramResult failed = overlap(out_);
  EXPECT_EQ(failed.code, 1);
  EXPECT_TRUE(has(failed.err, "overlap: " + out_ +
                                  ": 1 of 4 cells failed (overlap-003: cannot create folder " +
                                  out_ + "/overlap-003"));
  EXPECT_EQ(json_of(out_ + "/summary.json")["points"].size(), 3u);
  std::filesystem::remove(out_ + "/overlap-003");
  EXPECT_EQ(overlap(out_).code, 0);
  EXPECT_EQ(json_of(out_ + "/summary.json")["points"].size(), 4u);
}

TEST_F(Overlap, NumbersThatAreNotFiniteStopANetworkBeforeTheUpdate) {
  // --overlap beside --overlaps is refused; so the range is given once.
  EXPECT_EQ(overlap(out_, "--overlap 5 --learning-rate 1e30").code, 2);
  const ProgramResult failed = overlap(out_, "--overlaps 5 --learning-rate 1e30");
  EXPECT_EQ(failed.code, 1);
  EXPECT_TRUE(has(failed.err, "stopped before the update, the state is kept in " + out_ +
                                  "/overlap-005/failure.safetensors"));
}

TEST_F(Overlap, ASignalEndsItWithAStateAndExitCode75) {
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) {
    const TemporaryFolder folder;
    const int pid = harness::start_program(
        "overlap", tiny(folder / "run", {"--iterations", "1000000", "--jobs", "2"}));
    const Words states = {folder / "run/overlap-000/checkpoint.safetensors",
                          folder / "run/overlap-003/checkpoint.safetensors"};
    // The first state is written before the first step, after the handlers are in place.
    for (const std::string& state : states) EXPECT_TRUE(harness::wait_for_file(state));
    kill(pid, signal);
    EXPECT_EQ(harness::wait_for_program(pid), kInterrupted);
    for (const std::string& state : states) EXPECT_TRUE(load_checkpoint(state).has_value());
  }
}

TEST_F(Overlap, BadUsageIsOneLineAndExitCode2) {
  const auto refused = [&](const Words& arguments, const std::string& message) {
    harness::expect_refusal(run_program("overlap", arguments), "overlap", 2, message);
  };
  refused({},
          "expected a command: run, settings, plan, status, collect or completion (see --help)");
  refused({"--depth", "4"},
          "expected a command before --depth: expected run, settings, plan, status, collect or "
          "completion (see --help)");
  for (const auto& [flags, message] : std::vector<std::pair<const char*, const char*>>{
           {"fly", "fly: not expected here (see --help)"},
           {"--norm batch", "there is no flag --norm (see --help)"},
           {"--preset huge", "--preset huge: expected demo, small, paper or a .json file"},
           {"--overlap 34", "--overlaps 34: 34, but the sequences are 33 long"},
           {"--overlap many", "--overlap many: expected a whole number from 0 to 1000000"},
           {"--overlaps many",
            "--overlaps many: expected a list of numbers and of FIRST..LAST:STEP, as in "
            "0..32:4,33"},
           {"--overlap 3 --overlaps 4", "--overlaps excludes --overlap (see --help)"},
           {"--kernel-size 4", "--kernel-size 4: expected an odd number from 1 to 999"},
           {"--depth 1", "--depth 1: expected a whole number from 2 to 1000"},
           {"--test-pairs 1", "--test-pairs 1: expected a whole number from 2 to 4294967295"},
           {"--jobs -1", "--jobs -1: expected a whole number from 0 to 1024"},
           {"--learning-rate 0",
            "--learning-rate 0: expected a number of at least 1e-30 and at most 1e+30"},
           {"--schedule cosine", "--schedule cosine: expected constant or tail"}}) {
    refused(words("run " + std::string(flags), {"--out", out_}), message);
  }
  EXPECT_FALSE(std::filesystem::exists(out_));  // nothing of this leaves a trace
  const ProgramResult help = run_program("overlap", {"run", "--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* flag : {"--overlap ", "--overlaps", "--jobs", "--resume", "--preset"})
    EXPECT_TRUE(has(help.out, flag));
}

TEST_F(Overlap, CellsOfAPlanComeToWhatARunDoes) {
  const std::string whole = folder_ / "whole", cells = folder_ / "cells";
  ASSERT_EQ(overlap(whole).code, 0);
  const auto on_cells = [&](const std::string& line) {
    return run_program("overlap", words(line, {"--out", cells}));
  };
  const auto refused = [&](const std::string& line, int code, const std::string& message) {
    harness::expect_refusal(on_cells(line), "overlap", code, message);
  };
  refused("run --cell 0", 1, cells + " holds no plan of a sweep; run `overlap plan` first");
  auto plan = tiny(cells);
  plan[0] = "plan";
  EXPECT_EQ(run_program("overlap", plan).out, cells + "/config.json: 4 cells\n");
  auto other = tiny(cells, {"--overlaps", "1"});
  other[0] = "plan";
  harness::expect_refusal(run_program("overlap", other), "overlap", 2,
                          cells +
                              " holds a run with other settings (overlaps is \"0:9:3\" there, "
                              "\"1\" here); choose another --out");
  EXPECT_EQ(on_cells("run --cell 1 --check").code, 0);
  EXPECT_EQ(on_cells("status").out, cells + ": 4 cells\n     waiting    4  (0-3)\n");
  refused("collect", 1, cells + ": none of 4 overlaps is finished");
  EXPECT_EQ(on_cells("run --cell 2 --stop-after 9").code, kInterrupted);
  EXPECT_EQ(on_cells("run --cell overlap-009").code, 0);
  EXPECT_EQ(
      on_cells("status").out,
      cells +
          ": 4 cells\n    finished    1  (3)\n interrupted    1  (2)\n     waiting    2  (0-1)\n");
  EXPECT_EQ(on_cells("status --unfinished").out, "0-2\n");
  for (const std::string cell : {"0", "1", "2"}) EXPECT_EQ(on_cells("run --cell " + cell).code, 0);
  EXPECT_EQ(on_cells("run --cell 2").out, cells + "/overlap-006: done already, see result.json\n");
  EXPECT_EQ(on_cells("collect").code, 0);
  expect_same_results(whole, cells);
  refused("run --cell 4", 2,
          "--cell 4: expected a whole number from 0 to 3, or an id such as "
          "overlap-003");
  for (const std::string flag : {"--depth", "--jobs"}) {
    refused("run --cell 0 " + flag + " 5", 2, flag + " 5: is not for one --cell to set");
  }
  // As `run` tells its workers: a cell of its own overlaps.
  EXPECT_EQ(on_cells("run --overlaps 9 --cell 0").out,
            cells + "/overlap-009: done already, see result.json\n");
  EXPECT_EQ(overlap(cells).out, cells + ": done already, see summary.json\n");
}

// A network that answers 0 is worth a word where enough is shared (from 3 l / 4 on, and less than
// all): with less, or with identical sequences, nobody can do better. One that errs by more always
// is.
TEST_F(Overlap, ANetworkThatLearnedNothingSaysSo) {
  const std::map<std::string, std::set<int>> told = {
      {"1", {0, 6, 7, 9}}, {"100", {7}}, {"400", {}}};
  for (const auto& [iterations, overlaps] : told) {
    const std::string out = folder_ / iterations;
    const ProgramResult result =
        overlap(out, "--overlaps 0,6,7,9 --test-pairs 2000 --iterations " + iterations);
    EXPECT_EQ(result.code, 0);
    for (const int shared : {0, 6, 7, 9}) {
      const std::string told_so = fmt::format("overlap {}: this network learned nothing: ", shared);
      EXPECT_EQ(bool(has(result.err, told_so)), overlaps.contains(shared))
          << iterations << ": " << result.err;
      const Json answer = json_of(fmt::format("{}/overlap-{:03}/result.json", out, shared));
      EXPECT_EQ(answer["notice"].is_string(), overlaps.contains(shared)) << iterations;
    }
  }
}

TEST_F(Overlap, ADamagedResultIsNamedAndMadeAgain) {
  ASSERT_EQ(overlap(out_).code, 0);
  const std::string file = out_ + "/overlap-003/result.json";
  const Json whole = Json::parse(content_of(file));
  for (const char* text : {"", "[]", "{\"overlap\": 3}", "{\"overlap\": 3, \"mse\": \"x\"}"}) {
    std::ofstream(file) << text;
    const ProgramResult result = overlap(out_);
    EXPECT_EQ(result.code, 0);
    EXPECT_TRUE(harness::begins(result.err, file + ": "));
    EXPECT_TRUE(has(result.err, "; it is made again\n"));
    EXPECT_EQ(Json::parse(content_of(file))["mse"], whole["mse"]);
  }
}

}  // namespace
}  // namespace sidechannel::experiments
