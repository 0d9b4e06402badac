// Sweeps whose workers fail, are stopped, killed and resumed.

#include "experiments/run/crew.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "experiments/run/interrupt.h"
#include "experiments/run/progress.h"
#include "experiments/run/settings.h"
#include "tests/harness/program.h"

namespace sidechannel::harness {
namespace {

namespace fs = std::filesystem;

constexpr int kInterrupted = experiments::kExitInterrupted;

ProgramResult sweep(const Words& arguments) {
  return run_program("sweep", arguments);
}

// Settings with which a localizer takes some tens of milliseconds.
const std::string kTiny =
    " --set length=20 --set channels=8 --set kernel_size=3 --set batch=4 --set iterations=50 "
    "--set map_samples=128 --set log_every=7 ";

// A sweep of such over groups; learning rates and seeds are the preset's where `more` has none.
Words tiny(const std::string& command, const std::string& out, const std::string& more = "",
           const std::string& groups = "1,2,4,8") {
  return words(command + " --preset groups/demo --over groups=" + groups + kTiny +
                   "--set depth=4 --set probes=last --set probe_width=8 --set probe_batch=4 "
                   "--set probe_iterations=20 --out",
               with({out}, words(more)));
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
    ++found;
  }
  return found;
}

std::vector<fs::path> cells_in(const std::string& out) {
  std::vector<fs::path> cells;
  for (const auto& entry : fs::directory_iterator(out + "/cells")) cells.push_back(entry.path());
  std::sort(cells.begin(), cells.end());
  return cells;
}

void pause(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

// Those of a sweep by two workers, as soon as both work.
std::map<int, std::string> both_workers_of(int parent) {
  std::map<int, std::string> workers;
  EXPECT_TRUE(wait_until([&] { return (workers = workers_of(parent)).size() == 2; }));
  return workers;
}

TEST(Sweep, RangesOfCells) {
  EXPECT_EQ(experiments::ranges({}), "");
  EXPECT_EQ(experiments::ranges({4}), "4");
  EXPECT_EQ(experiments::ranges({0, 1, 2, 5, 7, 8}), "0-2,5,7-8");
}

TEST(Progress, OnlyItsOwnLinesSayWhereALogStands) {
  using experiments::progress_part;
  EXPECT_EQ(progress_part("train 2018/5000  loss 0.01234  88 it/s"), "train 2018/5000");
  EXPECT_EQ(progress_part("overlap 3, test 4/10  "), "overlap 3, test 4/10");
  for (const char* line :
       {"", "train", "train 2018/5000", "train 2018/x  loss", "train /5000  loss",
        "2018/5000  loss",
        "this run learned nothing: loss 0.08610; try another seed (--seed 5)  or 1/2",
        "train: resumed at step 20", "a/b c 3  d"}) {
    EXPECT_EQ(progress_part(line), "") << line;
  }

  const TemporaryFolder folder;
  const std::string log = folder / "log.txt";
  const auto stands_at = [&](const std::string& text) {
    std::ofstream(log) << text;
    return experiments::last_progress(log);
  };
  EXPECT_EQ(experiments::last_progress(log), "");
  EXPECT_EQ(stands_at(""), "");
  EXPECT_EQ(stands_at("cpu: 1 of 2 threads\n\n"), "");
  EXPECT_EQ(stands_at("train 1/9  loss 1\ntrain 2/9  loss 1\n"), "train 2/9");
  EXPECT_EQ(stands_at("train 1/9  loss 1\nthis run learned nothing\n\n"), "train 1/9");
  EXPECT_EQ(stands_at("train 1/9  loss 1\ntrain 2/9  lo"), "train 1/9");  // not whole yet
  EXPECT_EQ(stands_at("train 1/9  x\n" + std::string(70'000, 'x') + " 3/4  x\n"), "");
  EXPECT_EQ(stands_at(std::string(70'000, 'x') + "\nmap 3/4  x\n"), "map 3/4");
}

TEST(Progress, NumbersHaveFewDigits) {
  using experiments::number_text;
  EXPECT_EQ(number_text(0.012345, 4), "0.0123");
  EXPECT_EQ(number_text(0.08598, 5), "0.08598");
  EXPECT_EQ(number_text(0, 5), "0.00000");
  EXPECT_EQ(number_text(-0.002, 3), "-0.002");
  EXPECT_EQ(number_text(123456.25, 1), "123456.2");
  EXPECT_EQ(number_text(9.0000000329865346e76, 5), "9e+76");
  EXPECT_EQ(number_text(-3.7904107041722777e+27, 5), "-3.79e+27");
  EXPECT_EQ(number_text(1e6, 5), "1e+06");
  EXPECT_EQ(number_text(3.21987e-9, 4), "3.22e-09");
  EXPECT_EQ(number_text(std::numeric_limits<double>::max(), 3), "1.8e+308");
  EXPECT_EQ(number_text(std::numeric_limits<double>::infinity(), 3), "inf");
  EXPECT_EQ(number_text(std::numeric_limits<double>::quiet_NaN(), 3), "nan");
  EXPECT_EQ(experiments::share_text(-3.7e-21), "0.000");
  EXPECT_EQ(experiments::share_text(-0.0007), "-0.001");
  EXPECT_EQ(experiments::share_text(-3.79e27), "-3.79e+27");
}

TEST(Sweep, ThreadsAndDevicesOfWorkers) {
  EXPECT_EQ(experiments::threads_each(8, 3), 2);
  EXPECT_EQ(experiments::threads_each(1, 3), 1);
  EXPECT_GE(experiments::threads_each(0, 1), 1);
  EXPECT_EQ(experiments::worker_devices("cpu", 3, 9),
            (std::vector<std::string>{"cpu", "cpu", "cpu"}));
  EXPECT_EQ(experiments::worker_devices("cpu", 0, 9999).size(),
            static_cast<std::size_t>(experiments::threads_each(0, 1)));
  EXPECT_EQ(experiments::worker_devices("cpu", 3, 2).size(), 2u);
  EXPECT_THROW(experiments::worker_devices("tpu", 1, 1), UsageError);
}

using SweepRun = FolderTest;
using SweepCommandLine = FolderTest;

// 140 cells, 20 workers killed at their work, and the program that starts them killed in between:
// every cell finishes, exactly once, with what it would have come to without all this.
TEST_F(SweepRun, KilledWorkersCostNothingButTime) {
  const std::string size =
      "--over seed=0..4 --over learning_rate=1e-3,2e-3,4e-3,8e-3,1e-2,2e-2,3e-2 --device cpu";
  const std::string out = folder_ / "killed";
  const Words arguments = tiny("run", out, size + " --jobs 4 --checkpoint-every 5");

  std::mt19937 random(7);
  std::set<std::string> killed;
  int starts = 0;
  for (int code = -1; code != 0; ++starts) {
    ASSERT_LT(starts, 50);
    const int pid = start_program("sweep", arguments);
    // Three victims to a start, then the parent itself; left alone once there were 20.
    for (int victims = 0; victims < 3 && killed.size() < 20;) {
      pause(static_cast<int>(random() % 30));
      const std::map<int, std::string> workers = workers_of(pid);
      if (workers.empty()) continue;
      const auto victim =
          std::next(workers.begin(), static_cast<std::ptrdiff_t>(random() % workers.size()));
      if (!killed.insert(victim->second).second) continue;
      kill(victim->first, SIGKILL);
      ++victims;
    }
    if (killed.size() < 20) {
      pause(static_cast<int>(random() % 30));
      kill(pid, SIGKILL);
    }
    code = wait_for_program(pid);
    ASSERT_TRUE(code == 0 || code == -SIGKILL) << code;
  }
  EXPECT_EQ(killed.size(), 20u);
  EXPECT_GE(starts, 7);

  const std::vector<fs::path> cells = cells_in(out);
  ASSERT_EQ(cells.size(), 140u);
  std::map<std::string, fs::file_time_type> times;
  for (const fs::path& cell : cells) {
    ASSERT_TRUE(fs::exists(cell / "summary.json")) << cell;
    // Its worker's last line; a worker killed right before it leaves none.
    EXPECT_LE(count(content_of(cell / "log.txt"), ": localization distance "), 1u) << cell;
    times[cell] = fs::last_write_time(cell / "summary.json");
  }

  // Nothing is done again.
  const ProgramResult again = sweep(arguments);
  EXPECT_EQ(again.code, 0);
  EXPECT_EQ(
      again.out,
      out + ": all 140 cells are finished; `sweep collect` makes results.json and cells.csv\n");
  for (const fs::path& cell : cells) {
    EXPECT_EQ(fs::last_write_time(cell / "summary.json"), times[cell]) << cell;
  }

  // Two collects are byte-equal, and equal to that of a sweep that nobody disturbed.
  ASSERT_EQ(sweep({"collect", "--out", out}).code, 0);
  const std::string results = content_of(out + "/results.json");
  ASSERT_EQ(sweep({"collect", "--out", out}).code, 0);
  EXPECT_EQ(content_of(out + "/results.json"), results);
  EXPECT_EQ(Json::parse(results)["finished"], 140);
  const std::string whole = folder_ / "whole";
  ASSERT_EQ(sweep(tiny("run", whole, size)).code, 0);
  ASSERT_EQ(sweep({"collect", "--out", whole}).code, 0);
  EXPECT_EQ(content_of(whole + "/results.json"), results);
}

// 24 cells over three axes of settings, one of them of text: killed wherever it is, and continued,
// it comes to the bytes of one that nobody disturbed.
TEST_F(SweepRun, OverAnythingKilledAndContinued) {
  const auto over = [](const std::string& out, const std::string& more = "") {
    return words(
        "run --program localization --over norm=instance,none --over depth=3,4,5 "
        "--over seed=0..3 --device cpu" +
            kTiny + "--set probes=none --out",
        with({out}, words(more)));
  };
  const std::string whole = folder_ / "whole", killed = folder_ / "killed";
  ASSERT_EQ(sweep(over(whole)).code, 0);
  EXPECT_GE(harness::kill_repeatedly("sweep", over(killed, "--jobs 2 --checkpoint-every 5"), 12),
            1);
  ASSERT_EQ(sweep(over(killed)).code, 0);
  for (const std::string& out : {whole, killed}) {
    ASSERT_EQ(sweep({"collect", "--out", out}).code, 0);
    EXPECT_EQ(cells_in(out).size(), 24u);
  }
  for (const char* file : {"/plan.json", "/results.json", "/cells.csv"}) {
    EXPECT_FALSE(content_of(whole + file).empty()) << file;
    EXPECT_EQ(content_of(killed + file), content_of(whole + file)) << file;
  }
  for (const fs::path& cell : cells_in(whole)) {
    const fs::path other = fs::path(killed) / "cells" / cell.filename();
    harness::expect_same_files(cell, other, {"model.safetensors", "predictions_mean.npy"});
  }
  const std::string csv = content_of(whole + "/cells.csv");
  EXPECT_EQ(count(csv, "\n"), 25u);
  EXPECT_TRUE(begins(csv, "id,norm,depth,seed,receptive_field,final_loss,"));
  const ProgramResult table = sweep({"collect", "--out", whole});
  EXPECT_TRUE(begins(table.out, "    norm  depth  seeds  localization_distance  "));
  EXPECT_EQ(count(table.out, "    none      "), 3u);
  // Each cell is the run of the program with these flags.
  ASSERT_EQ(run_program("localization",
                        words("run --norm none --depth 4 --seed 2 --length 20 --channels 8 "
                              "--kernel-size 3 --batch 4 --iterations 50 --map-samples 128 "
                              "--log-every 7 --probes none --device cpu --out",
                              {folder_ / "alone"}))
                .code,
            0);
  harness::expect_same_files(folder_ / "alone", whole + "/cells/norm=none,depth=4,seed=2",
                             {"model.safetensors", "predictions_mean.npy", "localized.npy"});
}

// The other programs' cells, each its own run.
TEST_F(SweepRun, OfEveryProgramThatMakesRuns) {
  const std::string pairs = folder_ / "pairs", planners = folder_ / "planners";
  ASSERT_EQ(
      sweep(words("run --program overlap --over overlap=0..4:4 --over batch=2,4 --set depth=3 "
                  "--set channels=4 --set iterations=5 --set test_pairs=64 --device cpu --out",
                  {pairs}))
          .code,
      0);
  ASSERT_EQ(sweep(words("run --program diffusion --over norm=group,none --over seed=0..1 "
                        "--set dim=8 --set groups=2 --set iterations=5 --set walks=4 "
                        "--set walk_corridors=8 --set pairs=2 --set plans=2 --set leak_outputs=1 "
                        "--set leak_inputs=1 --device cpu --out",
                        {planners}))
                .code,
            0);
  for (const std::string& out : {pairs, planners}) {
    EXPECT_EQ(sweep({"status", "--out", out}).out, out + ": 4 cells\n    finished    4  (0-3)\n");
    ASSERT_EQ(sweep({"collect", "--out", out}).code, 0);
  }
  EXPECT_TRUE(
      begins(content_of(pairs + "/cells.csv"), "id,overlap,batch,length,mse,mean.0,mean.1,"));
  EXPECT_TRUE(has(content_of(planners + "/cells.csv"), ",held_out.valid,"));
  ASSERT_EQ(run_program("overlap", words("run --overlap 4 --batch 4 --depth 3 --channels 4 "
                                         "--iterations 5 --test-pairs 64 --device cpu --out",
                                         {folder_ / "alone"}))
                .code,
            0);
  harness::expect_same_files(folder_ / "alone/overlap-004", pairs + "/cells/overlap=4,batch=4",
                             {"model.safetensors"});
  expect_refusal(sweep(words("collect --output - --out", {pairs})), "sweep", 2,
                 "--output -: expected the name of a file; for standard output, --json");
  EXPECT_EQ(sweep(words("collect --csv - --out", {pairs})).out, content_of(pairs + "/cells.csv"));
}

// Each network with the statistics of minibatches and with its population's, whenever it was
// killed.
TEST_F(SweepRun, CrosstalkHasBothStatisticsOfEachNetwork) {
  const auto crosstalk = [](const std::string& out, const std::string& more = "") {
    return words(
        "run --preset crosstalk/demo --over samples_per_set=1,2,4 --over seed=0..1 --device cpu "
        "--set depth=4" +
            kTiny + "--out",
        with({out}, words(more)));
  };
  const std::string whole = folder_ / "whole", killed = folder_ / "killed";
  ASSERT_EQ(sweep(crosstalk(whole)).code, 0);
  ASSERT_EQ(sweep({"collect", "--out", whole}).code, 0);
  const std::string results = content_of(whole + "/results.json");
  EXPECT_EQ(Json::parse(results)["finished"], 6);
  for (const fs::path& cell : cells_in(whole)) {
    const auto file = [&](const std::string& name) { return content_of((cell / name).string()); };
    EXPECT_EQ(file("model.safetensors"), file("population/model.safetensors"));
    EXPECT_NE(file("predictions_mean.npy"), file("population/predictions_mean.npy"));
    EXPECT_EQ(Json::parse(file("population/summary.json"))["eval_statistics"], "population");
  }
  std::mt19937 random(3);
  for (int i = 0; i < 10; ++i) {
    const int pid = start_program("sweep", crosstalk(killed, "--jobs 2"));
    pause(static_cast<int>(random() % 100));
    kill(pid, SIGKILL);
    wait_for_program(pid);
  }
  // A cell without the second half is not finished, and the first one is not made again.
  ASSERT_EQ(sweep(crosstalk(killed)).code, 0);
  const fs::path cell = cells_in(killed).front();
  fs::remove_all(cell / "population");
  const auto made = fs::last_write_time(cell / "summary.json");
  EXPECT_EQ(sweep({"status", "--out", killed, "--unfinished"}).out, "0\n");
  ASSERT_EQ(sweep({"run", "--out", killed}).code, 0);  // the plan knows what it is over
  EXPECT_EQ(fs::last_write_time(cell / "summary.json"), made);
  ASSERT_EQ(sweep({"collect", "--out", killed}).code, 0);
  EXPECT_EQ(content_of(killed + "/results.json"), results);

  EXPECT_EQ(sweep(words("run --preset groups/demo --out", {whole})).err,
            "sweep: " + whole + " holds a sweep with --population; choose another --out\n");
}

// Two programs on one sweep, as on two hosts: they share the cells, and both wait for the end.
TEST_F(SweepRun, TwoProgramsShareTheCells) {
  for (int i = 0; i < 5; ++i) {  // they meet at another place each time
    const TemporaryFolder folder;
    const Words arguments =
        tiny("run", folder / "sweep",
             "--over seed=0..1 --over learning_rate=1e-3,2e-3,4e-3 --device cpu --jobs 2");
    const int first = start_program("sweep", arguments);
    const int second = start_program("sweep", arguments);
    EXPECT_EQ(wait_for_program(first), 0);
    EXPECT_EQ(wait_for_program(second), 0);
    for (const fs::path& cell : cells_in(folder / "sweep")) {
      EXPECT_EQ(count(content_of(cell / "log.txt"), ": localization distance "), 1u) << cell;
    }
  }
}

TEST_F(SweepRun, ASignalStopsAllWorkersAndTheSameCommandContinues) {
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) {
    const TemporaryFolder folder;
    const std::string out = folder / "sweep";
    const int pid =
        start_program("sweep", tiny("run", out, "--set iterations=1000000 --device cpu --jobs 2"));
    const std::map<int, std::string> workers = both_workers_of(pid);
    const std::vector<fs::path> cells = {
        fs::path(out) / "cells/groups=1,learning_rate=0.001,seed=0",
        fs::path(out) / "cells/groups=2,learning_rate=0.001,seed=0"};
    for (const fs::path& cell : cells) {  // the handlers are in place by then
      EXPECT_TRUE(wait_for_file(cell / "checkpoint.safetensors"));
    }
    EXPECT_EQ(sweep({"status", "--out", out}).out,
              out + ": 4 cells\n     running    2  (0-1)\n     waiting    2  (2-3)\n");
    kill(pid, signal);
    EXPECT_EQ(wait_for_program(pid), kInterrupted);
    for (const auto& [worker, cell] : workers) EXPECT_NE(kill(worker, 0), 0) << "still there";
    for (const fs::path& cell : cells) {
      EXPECT_TRUE(has(content_of(cell / "log.txt"), "train: stopped at step "));
    }
    EXPECT_EQ(sweep({"status", "--out", out}).out,
              out + ": 4 cells\n interrupted    2  (0-1)\n     waiting    2  (2-3)\n");
  }
}

TEST_F(SweepRun, AKilledProgramTakesItsWorkersAlong) {
  const int pid = start_program(
      "sweep", tiny("run", folder_ / "sweep", "--set iterations=1000000 --device cpu --jobs 2"));
  const std::map<int, std::string> workers = both_workers_of(pid);
  kill(pid, SIGKILL);
  EXPECT_EQ(wait_for_program(pid), -SIGKILL);
  EXPECT_TRUE(wait_until([&] {
    return std::all_of(workers.begin(), workers.end(), [](const auto& worker) {
      const std::string stat = content_of(fmt::format("/proc/{}/stat", worker.first));
      return stat.empty() || stat[stat.rfind(')') + 2] == 'Z';
    });
  }));
}

// As for a run: every cell stops after so many steps, and with them the sweep.
TEST_F(SweepRun, StopAfterStopsEveryCell) {
  const std::string whole = folder_ / "whole", parts = folder_ / "parts";
  ASSERT_EQ(sweep(tiny("run", whole)).code, 0);
  EXPECT_GT(harness::runs_until_done("sweep", tiny("run", parts, "--stop-after 10")), 3);
  for (const std::string& out : {whole, parts}) ASSERT_EQ(sweep({"collect", "--out", out}).code, 0);
  EXPECT_EQ(content_of(parts + "/results.json"), content_of(whole + "/results.json"));
}

TEST_F(SweepRun, AFailedCellStopsNoOtherAndIsTriedAgain) {
  const Words arguments = tiny("run", out_, "--device cpu --jobs 2");
  // In the way of what the cell wants to write.
  fs::create_directories(out_ +
                         "/cells/groups=2,learning_rate=0.001,seed=0/checkpoint.safetensors");
  std::ofstream(out_ + "/cells/groups=2,learning_rate=0.001,seed=0/checkpoint.safetensors/x")
      << "x";
  const ProgramResult failed = sweep(arguments);
  EXPECT_EQ(failed.code, 1);
  EXPECT_TRUE(has(failed.err, "sweep: " + out_ +
                                  ": 1 of 4 cells failed (groups=2,learning_rate=0.001,seed=0: "));
  EXPECT_TRUE(harness::ends(failed.err,
                            "); `sweep status` says why, and the same command tries them again\n"));
  const ProgramResult status = sweep({"status", "--out", out_});
  EXPECT_EQ(status.code, 0);
  EXPECT_TRUE(
      begins(status.out, out_ + ": 4 cells\n    finished    3  (0,2-3)\n      failed    1  (1)\n"
                                "failed: 1 groups=2,learning_rate=0.001,seed=0: "));
  EXPECT_EQ(sweep({"status", "--out", out_, "--unfinished"}).out, "1\n");
  ASSERT_EQ(sweep({"collect", "--out", out_}).code, 0);
  EXPECT_EQ(Json::parse(content_of(out_ + "/results.json"))["finished"], 3);

  fs::remove_all(out_ + "/cells/groups=2,learning_rate=0.001,seed=0/checkpoint.safetensors");
  const ProgramResult again = sweep(arguments);
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(sweep({"status", "--out", out_}).out, out_ + ": 4 cells\n    finished    4  (0-3)\n");
  EXPECT_EQ(sweep({"status", "--out", out_, "--unfinished"}).out, "\n");
}

TEST_F(SweepRun, ACellThatDivergesIsAFailureToo) {
  EXPECT_EQ(
      sweep(tiny("run", out_, "--over learning_rate=1e-3,1e30 --device cpu --jobs 1", "1")).code,
      1);
  EXPECT_TRUE(has(sweep({"status", "--out", out_}).out,
                  "failed: 1 groups=1,learning_rate=1e+30,seed=0: step "));
}

TEST_F(SweepRun, ACellByItself) {
  const Words plan = tiny("plan", out_);
  EXPECT_EQ(sweep(plan).out, out_ + "/plan.json: 4 cells\n");
  EXPECT_EQ(sweep(plan).out, out_ + "/plan.json: 4 cells\n");
  const Words cell = words("run --cell 2 --device cpu --threads 1 --out", {out_});
  EXPECT_EQ(sweep(with(cell, {"--stop-after", "10"})).code, kInterrupted);
  EXPECT_EQ(sweep({"status", "--out", out_}).out,
            out_ + ": 4 cells\n interrupted    1  (2)\n     waiting    3  (0-1,3)\n");
  const ProgramResult done = sweep(cell);
  EXPECT_EQ(done.code, 0);
  EXPECT_TRUE(begins(done.out, "groups=4,learning_rate=0.001,seed=0: localization distance "));
  EXPECT_TRUE(has(done.err, "train: resumed at step 10\n"));
  EXPECT_EQ(sweep({"run", "--out", out_, "--cell", "groups=4,learning_rate=0.001,seed=0"}).out,
            out_ + "/cells/groups=4,learning_rate=0.001,seed=0: done already, see summary.json\n");
  EXPECT_EQ(sweep({"status", "--out", out_, "--unfinished"}).out, "0-1,3\n");
}

// Nothing in a folder's name stands for something else, and the program shows how far cells are.
TEST_F(SweepRun, BracesInAFoldersNameAreBraces) {
  const std::string out = folder_ / "sw{cell}{device}{}%s";
  const ProgramResult result = sweep(tiny("run", out, "--jobs 1", "1,2"));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(begins(result.out, out + ": all "));
  EXPECT_EQ(names_in(folder_.path()).size(), 1u);
}

void expect_error(const Words& arguments, int code, const std::string& message) {
  expect_refusal(sweep(arguments), "sweep", code, message);
}

TEST_F(SweepCommandLine, HelpIsNoError) {
  for (const char* command : {"plan", "run", "status", "collect"}) {
    const ProgramResult result = sweep({command, "--help"});
    EXPECT_EQ(result.code, 0) << command;
    EXPECT_TRUE(has(result.out, "--out")) << command;
    EXPECT_EQ(result.err, "");
  }
}

TEST_F(SweepCommandLine, BadInputIsOneLine) {
  expect_error({}, 2, "expected a command: plan, run, status, collect or completion (see --help)");
  expect_error({"fly"}, 2,
               "there is no command fly: expected plan, run, status, collect or completion (see "
               "--help)");
  const auto refused = [&](const std::string& line, int code, const std::string& message) {
    expect_error(words(line, {"--out", out_}), code, message);
  };
  const std::string demo = "plan --preset groups/demo ";
  refused("plan --program fly --over seed=0", 2,
          "--program fly: expected localization, overlap or diffusion");
  refused("plan", 2,
          "expected --program (localization, overlap or diffusion) and --over, or --preset with a "
          "sweep, such as groups/demo");
  refused("plan --program localization", 2, "expected --over, as in --over seed=0..4");
  refused(demo + "--over groups=3", 2, "--groups 3: expected a divisor of --channels 32");
  refused(demo + "--over groups=few", 2,
          "--over groups few: expected a whole number from 1 to 16384");
  refused(demo + "--over groups", 2, "--over groups: expected NAME=VALUE, as in seed=0");
  refused(demo + "--over seed=4..0", 2, "--over seed 4..0: is an empty range");
  refused(demo + "--over seed=0 --over seed=1", 2, "--over seed: is given twice");
  refused(demo + "--over seed=0 1", 2, "1: not expected here (see --help)");
  refused(demo + "--norm none", 2, "there is no flag --norm (see --help)");
  refused(
      "plan --program localization --over norm=none,group --over groups=4,5", 2,
      "3 of 4 cells make no sense: --groups 4: has no effect without --norm group or "
      "group_population (norm=none,groups=4); --groups 5: has no effect without --norm group or "
      "group_population (norm=none,groups=5); --groups 5: expected a divisor of --channels 32 "
      "(norm=group,groups=5)");
  refused("status", 1, out_ + " holds no plan of a sweep; run `sweep plan` first");
  refused("collect", 1, out_ + " holds no plan of a sweep; run `sweep plan` first");
  expect_error({"status"}, 2, "expected --out, or the --preset or --program of the sweep");
  EXPECT_FALSE(fs::exists(out_));  // nothing of this leaves a trace
  ASSERT_EQ(sweep(words(demo, {"--out", out_})).code, 0);
  const Json plan = Json::parse(content_of(out_ + "/plan.json"));
  for (const std::string cell : {"-1", "1000", "groups=3", "1x", "010", "0x1", "+1", "../.."}) {
    refused("run --cell=" + cell, 2,
            fmt::format("--cell {}: expected a whole number from 0 to {}, or an id in plan.json",
                        cell, plan["cells"].size() - 1));
  }
  refused("run --device tpu", 2, "--device tpu: expected auto, cpu or cuda[:N]");
  refused("run --preset groups/demo --set iterations=3", 2,
          fmt::format("{} holds a sweep with other settings (iterations is {} there, 3 here); "
                      "choose another --out",
                      out_, plan["settings"]["iterations"].dump()));
  refused("collect --choose seed=most:x", 2,
          "--choose seed=most:x: expected AXIS=max:MEASURE,min:MEASURE,...");
  refused("collect --output x --csv ./x", 2, "--csv ./x: is that of --output, too");
  const std::string written = content_of(out_ + "/plan.json");
  for (const char* flag : {"--output", "--csv"}) {
    refused(
        fmt::format("collect {} {}/plan.json", flag, out_), 2,
        fmt::format("{} {}/plan.json: is a file of the run or sweep in that folder", flag, out_));
  }
  EXPECT_EQ(content_of(out_ + "/plan.json"), written);
  refused("status --program overlap", 2,
          "--out: names the sweep, where neither --program nor --preset has an effect");
}

}  // namespace
}  // namespace sidechannel::harness
