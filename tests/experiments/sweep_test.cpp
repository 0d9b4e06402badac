// Sweeps of the groups program whose workers fail, are stopped, killed and resumed.

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

std::vector<std::string> with(std::vector<std::string> arguments,
                              const std::vector<std::string>& more) {
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

// A sweep whose cells take some tens of milliseconds.
std::vector<std::string> tiny(const std::string& command, const std::string& out) {
  return {command, "--out",         out,   "--groups",      "1,2,4,8", "--length",
          "20",    "--depth",       "4",   "--channels",    "8",       "--kernel-size",
          "3",     "--batch",       "4",   "--iterations",  "50",      "--probes",
          "last",  "--probe-width", "8",   "--probe-batch", "4",       "--probe-iterations",
          "20",    "--map-samples", "128", "--log-every",   "7"};
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

// The processes whose parent is `parent`, and the cell that each works on.
std::map<int, std::string> workers_of(int parent) {
  std::map<int, std::string> workers;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (!std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; })) {
      continue;
    }
    // PID (NAME) STATE PPID ...
    const std::string stat = content_of(entry.path() / "stat");
    const std::size_t end = stat.rfind(')');
    if (end == std::string::npos || stat.size() < end + 5 || stat[end + 2] == 'Z' ||
        std::atoi(stat.c_str() + end + 4) != parent) {
      continue;
    }
    const std::string command = content_of(entry.path() / "cmdline");
    const std::string flag("--cell\0", 7);
    const std::size_t at = command.find(flag);
    if (at == std::string::npos) continue;  // not yet the program that it will be
    workers[std::stoi(name)] = command.c_str() + at + flag.size();
  }
  return workers;
}

void pause(int milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
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

// 140 cells, 20 workers killed at their work, and the program that starts them killed in between:
// every cell finishes, exactly once, with what it would have come to without all this.
TEST(SweepRun, KilledWorkersCostNothingButTime) {
  const TemporaryFolder folder;
  const std::vector<std::string> size = {"--seeds", "5", "--learning-rates",
                                         "1e-3,2e-3,4e-3,8e-3,1e-2,2e-2,3e-2"};
  const std::vector<std::string> how = {"--device",           "cpu", "--jobs", "4",
                                        "--checkpoint-every", "5"};
  const std::string out = folder / "killed";
  const auto arguments = with(with(tiny("run", out), size), how);

  std::mt19937 random(7);
  std::set<std::string> killed;
  int starts = 0;
  for (int code = -1; code != 0; ++starts) {
    ASSERT_LT(starts, 50);
    const int pid = start_program("groups", arguments);
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
  const ProgramResult again = run_program("groups", arguments);
  EXPECT_EQ(again.code, 0);
  EXPECT_EQ(again.out, out + ": all 140 cells are finished; `groups collect` makes results.json\n");
  for (const fs::path& cell : cells) {
    EXPECT_EQ(fs::last_write_time(cell / "summary.json"), times[cell]) << cell;
  }

  // Two collects are byte-equal, and equal to that of a sweep that nobody disturbed.
  ASSERT_EQ(run_program("groups", {"collect", "--out", out}).code, 0);
  const std::string results = content_of(out + "/results.json");
  ASSERT_EQ(run_program("groups", {"collect", "--out", out}).code, 0);
  EXPECT_EQ(content_of(out + "/results.json"), results);
  EXPECT_EQ(Json::parse(results)["finished"], 140);
  const std::string whole = folder / "whole";
  ASSERT_EQ(run_program("groups", with(with(tiny("run", whole), size), {"--device", "cpu"})).code,
            0);
  ASSERT_EQ(run_program("groups", {"collect", "--out", whole}).code, 0);
  EXPECT_EQ(content_of(whole + "/results.json"), results);
}

// Two programs on one sweep, as on two hosts: they share the cells, and both wait for the end.
TEST(SweepRun, TwoProgramsShareTheCells) {
  for (int i = 0; i < 5; ++i) {  // they meet at another place each time
    const TemporaryFolder folder;
    const auto arguments = with(
        tiny("run", folder / "sweep"),
        {"--seeds", "2", "--learning-rates", "1e-3,2e-3,4e-3", "--device", "cpu", "--jobs", "2"});
    const int first = start_program("groups", arguments);
    const int second = start_program("groups", arguments);
    EXPECT_EQ(wait_for_program(first), 0);
    EXPECT_EQ(wait_for_program(second), 0);
    for (const fs::path& cell : cells_in(folder / "sweep")) {
      EXPECT_EQ(count(content_of(cell / "log.txt"), ": localization distance "), 1u) << cell;
    }
  }
}

TEST(SweepRun, ASignalStopsAllWorkersAndTheSameCommandContinues) {
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) {
    const TemporaryFolder folder;
    const std::string out = folder / "sweep";
    const auto arguments =
        with(tiny("run", out), {"--seeds", "1", "--learning-rates", "1e-3", "--iterations",
                                "1000000", "--device", "cpu", "--jobs", "2"});
    const int pid = start_program("groups", arguments);
    std::map<int, std::string> workers;
    for (int i = 0; i < 10'000 && workers.size() < 2; ++i) {
      pause(1);
      workers = workers_of(pid);
    }
    ASSERT_EQ(workers.size(), 2u);
    const std::vector<fs::path> cells = {fs::path(out) / "cells/G1-seed0-lr0.001",
                                         fs::path(out) / "cells/G2-seed0-lr0.001"};
    for (const fs::path& cell : cells) {  // the handlers are in place by then
      for (int i = 0; i < 10'000 && !fs::exists(cell / "checkpoint.safetensors"); ++i) pause(1);
    }
    const ProgramResult running = run_program("groups", {"status", "--out", out});
    EXPECT_EQ(
        running.out,
        fmt::format("{}: 4 cells\n     running    2  (0-1)\n     waiting    2  (2-3)\n", out));
    kill(pid, signal);
    EXPECT_EQ(wait_for_program(pid), kInterrupted);
    for (const auto& [worker, cell] : workers) EXPECT_NE(kill(worker, 0), 0) << "still there";
    for (const fs::path& cell : cells) {
      EXPECT_NE(content_of(cell / "log.txt").find("train: stopped at step "), std::string::npos);
    }
    const ProgramResult stopped = run_program("groups", {"status", "--out", out});
    EXPECT_EQ(
        stopped.out,
        fmt::format("{}: 4 cells\n interrupted    2  (0-1)\n     waiting    2  (2-3)\n", out));
  }
}

TEST(SweepRun, AKilledProgramTakesItsWorkersAlong) {
  const TemporaryFolder folder;
  const int pid = start_program(
      "groups", with(tiny("run", folder / "sweep"), {"--seeds", "1", "--iterations", "1000000",
                                                     "--device", "cpu", "--jobs", "2"}));
  std::map<int, std::string> workers;
  for (int i = 0; i < 10'000 && workers.size() < 2; ++i) {
    pause(1);
    workers = workers_of(pid);
  }
  ASSERT_EQ(workers.size(), 2u);
  kill(pid, SIGKILL);
  EXPECT_EQ(wait_for_program(pid), -SIGKILL);
  const auto gone = [&] {
    return std::all_of(workers.begin(), workers.end(), [](const auto& worker) {
      const std::string stat = content_of(fmt::format("/proc/{}/stat", worker.first));
      return stat.empty() || stat[stat.rfind(')') + 2] == 'Z';
    });
  };
  for (int i = 0; i < 60'000 && !gone(); ++i) pause(1);
  EXPECT_TRUE(gone());
}

// As for a run: every cell stops after so many steps, and with them the sweep.
TEST(SweepRun, StopAfterStopsEveryCell) {
  const TemporaryFolder folder;
  const std::string whole = folder / "whole", parts = folder / "parts";
  const std::vector<std::string> size = {"--seeds", "1", "--learning-rates", "1e-3"};
  ASSERT_EQ(run_program("groups", with(tiny("run", whole), size)).code, 0);
  EXPECT_GT(harness::runs_until_done("groups",
                                     with(with(tiny("run", parts), size), {"--stop-after", "10"})),
            3);
  for (const char* out : {"whole", "parts"}) {
    ASSERT_EQ(run_program("groups", {"collect", "--out", folder / out}).code, 0);
  }
  EXPECT_EQ(content_of(parts + "/results.json"), content_of(whole + "/results.json"));
}

TEST(SweepRun, AFailedCellStopsNoOtherAndIsTriedAgain) {
  const TemporaryFolder folder;
  const std::string out = folder / "sweep";
  const auto arguments = with(tiny("run", out), {"--seeds", "1", "--learning-rates", "1e-3",
                                                 "--device", "cpu", "--jobs", "2"});
  // In the way of what the cell wants to write.
  fs::create_directories(out + "/cells/G2-seed0-lr0.001/checkpoint.safetensors");
  std::ofstream(out + "/cells/G2-seed0-lr0.001/checkpoint.safetensors/x") << "x";
  const ProgramResult failed = run_program("groups", arguments);
  EXPECT_EQ(failed.code, 1);
  EXPECT_NE(failed.err.find("groups: " + out + ": 1 of 4 cells failed (G2-seed0-lr0.001: "),
            std::string::npos)
      << failed.err;
  EXPECT_TRUE(
      failed.err.ends_with("); `groups status` says why, and the same command tries them again\n"))
      << failed.err;
  const ProgramResult status = run_program("groups", {"status", "--out", out});
  EXPECT_EQ(status.code, 0);
  EXPECT_TRUE(
      status.out.starts_with(out + ": 4 cells\n    finished    3  (0,2-3)\n      failed    1  (1)\n"
                                   "failed: 1 G2-seed0-lr0.001: "))
      << status.out;
  EXPECT_EQ(run_program("groups", {"status", "--out", out, "--unfinished"}).out, "1\n");
  ASSERT_EQ(run_program("groups", {"collect", "--out", out}).code, 0);
  EXPECT_EQ(Json::parse(content_of(out + "/results.json"))["finished"], 3);

  fs::remove_all(out + "/cells/G2-seed0-lr0.001/checkpoint.safetensors");
  const ProgramResult again = run_program("groups", arguments);
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(run_program("groups", {"status", "--out", out}).out,
            out + ": 4 cells\n    finished    4  (0-3)\n");
  EXPECT_EQ(run_program("groups", {"status", "--out", out, "--unfinished"}).out, "\n");
}

TEST(SweepRun, ACellThatDivergesIsAFailureToo) {
  const TemporaryFolder folder;
  const std::string out = folder / "sweep";
  const auto arguments =
      with(tiny("run", out), {"--seeds", "1", "--groups", "1", "--learning-rates", "1e-3,1e30",
                              "--device", "cpu", "--jobs", "1"});
  EXPECT_EQ(run_program("groups", arguments).code, 1);
  EXPECT_NE(
      run_program("groups", {"status", "--out", out}).out.find("failed: 1 G1-seed0-lr1e+30: step "),
      std::string::npos);
}

TEST(SweepRun, ACellByItself) {
  const TemporaryFolder folder;
  const std::string out = folder / "sweep";
  const auto plan = with(tiny("plan", out), {"--seeds", "1", "--learning-rates", "1e-3"});
  EXPECT_EQ(run_program("groups", plan).out, out + "/plan.json: 4 cells\n");
  EXPECT_EQ(run_program("groups", plan).out, out + "/plan.json: 4 cells\n");
  const std::vector<std::string> cell = {"run",      "--out", out,         "--cell", "2",
                                         "--device", "cpu",   "--threads", "1"};
  EXPECT_EQ(run_program("groups", with(cell, {"--stop-after", "10"})).code, kInterrupted);
  EXPECT_EQ(run_program("groups", {"status", "--out", out}).out,
            out + ": 4 cells\n interrupted    1  (2)\n     waiting    3  (0-1,3)\n");
  const ProgramResult done = run_program("groups", cell);
  EXPECT_EQ(done.code, 0);
  EXPECT_TRUE(done.out.starts_with("G4-seed0-lr0.001: localization distance ")) << done.out;
  EXPECT_NE(done.err.find("train: resumed at step 10\n"), std::string::npos);
  EXPECT_EQ(run_program("groups", {"run", "--out", out, "--cell", "G4-seed0-lr0.001"}).out,
            out + "/cells/G4-seed0-lr0.001: done already, see summary.json\n");
  EXPECT_EQ(run_program("groups", {"status", "--out", out, "--unfinished"}).out, "0-1,3\n");
}

// Nothing in a folder's name stands for something else, and the program shows how far cells are.
TEST(SweepRun, BracesInAFoldersNameAreBraces) {
  const TemporaryFolder folder;
  const std::string out = folder / "sw{cell}{device}{}%s";
  const ProgramResult result =
      run_program("groups", with(tiny("run", out), {"--groups", "1,2", "--jobs", "1"}));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(result.out.starts_with(out + ": all ")) << result.out;
  std::size_t folders = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder.path())) ++folders;
  EXPECT_EQ(folders, 1u);
}

void expect_error(const std::vector<std::string>& arguments, int code, const std::string& message) {
  harness::expect_refusal(run_program("groups", arguments), "groups", code, message);
}

TEST(SweepCommandLine, HelpIsNoError) {
  for (const char* command : {"plan", "run", "status", "collect"}) {
    const ProgramResult result = run_program("groups", {command, "--help"});
    EXPECT_EQ(result.code, 0) << command;
    EXPECT_NE(result.out.find("--out"), std::string::npos) << command;
    EXPECT_EQ(result.err, "");
  }
}

TEST(SweepCommandLine, BadInputIsOneLine) {
  const TemporaryFolder folder;
  const std::string out = folder / "sweep";
  expect_error({}, 2, "expected a command: plan, run, status or collect (see --help)");
  expect_error({"fly"}, 2,
               "there is no command fly: expected plan, run, status or collect (see --help)");
  expect_error({"plan", "--preset", "huge", "--out", out}, 2,
               "--preset huge: expected demo, small, paper or a .json file");
  expect_error({"plan", "--groups", "3", "--out", out}, 2,
               "--groups 3: expected a divisor of --channels 32");
  expect_error({"plan", "--groups", "few", "--out", out}, 2,
               "--groups few: expected a whole number from 1 to 16384");
  expect_error({"plan", "--seeds", "0", "--out", out}, 2,
               "--seeds 0: expected a whole number from 1 to 10000");
  expect_error({"run", "--norm", "none", "--out", out}, 2, "there is no flag --norm (see --help)");
  expect_error({"status", "--out", out}, 1,
               out + " holds no plan of a sweep; run `groups plan` first");
  expect_error({"collect", "--out", out}, 1,
               out + " holds no plan of a sweep; run `groups plan` first");
  EXPECT_FALSE(fs::exists(out));  // nothing of this leaves a trace
  ASSERT_EQ(run_program("groups", {"plan", "--out", out}).code, 0);
  const std::size_t cells = Json::parse(content_of(out + "/plan.json"))["cells"].size();
  for (const std::string cell : {"-1", "1000", "G3-seed0-lr1", "1x", "010", "0x1", "+1", "../.."}) {
    expect_error(
        {"run", "--out", out, "--cell=" + cell}, 2,
        fmt::format("--cell {}: expected a whole number from 0 to {}, or an id in plan.json", cell,
                    cells - 1));
  }
  expect_error({"run", "--out", out, "--device", "tpu"}, 2,
               "--device tpu: expected auto, cpu or cuda[:N]");
  expect_error(
      {"run", "--out", out, "--iterations", "3"}, 2,
      fmt::format("{} holds a sweep with other settings (iterations is {} there, 3 "
                  "here); choose another --out",
                  out,
                  Json::parse(content_of(out + "/plan.json"))["settings"]["iterations"].dump()));
}

}  // namespace
}  // namespace sidechannel::harness
