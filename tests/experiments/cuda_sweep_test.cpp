// Sweeps on a GPU or its emulation, whose cells share a process: each as if it were alone.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <set>
#include <thread>

#include "engine/io/folder_lock.h"
#include "engine/io/json.h"
#include "engine/io/safetensors.h"
#include "experiments/run/interrupt.h"
#include "experiments/run/settings.h"
#include "tests/harness/cuda_check.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;
using harness::content_of;
using harness::has;
using harness::ProgramResult;
using harness::run_program;
using harness::with;
using harness::words;
using harness::Words;

std::string cell_of(int groups, const std::string& rate = "0.001") {
  return fmt::format("groups={},learning_rate={},seed=0", groups, rate);
}
const Words kCells = {cell_of(1), cell_of(2), cell_of(4), cell_of(8)};

// A sweep of four cells.
Words tiny(const std::string& command, const std::string& out, const std::string& more = "",
           const std::string& axes = "--over groups=1,2,4,8") {
  return words(command + " --preset groups/demo " + axes +
                   " --set length=20 --set depth=4 --set channels=8 --set kernel_size=3 "
                   "--set batch=4 --set iterations=30 --set probes=last --set probe_width=8 "
                   "--set probe_batch=4 --set probe_iterations=10 --set map_samples=30 "
                   "--set log_every=7 --out",
               with({out}, words(more)));
}
Words together(const std::string& out, const std::string& more = "") {
  return tiny("run", out, "--device cuda --jobs 3 " + more);
}
Words alone(const std::string& out, std::size_t cell) {
  return words("run --device cuda:0 --threads 1 --cell", {std::to_string(cell), "--out", out});
}

// What a file of a cell says, without what its clock said, and how it was carried out.
std::string of_results(const fs::path& file) {
  if (file.extension() == ".safetensors") {
    SafetensorsFile state = read_safetensors(file);
    state.metadata.erase("milliseconds");
    std::string text;
    for (const auto& [key, value] : state.metadata) text += key + value;
    for (const auto& [name, array] : state.tensors) {
      text += name;
      text += text_of(array.bytes);
    }
    return text;
  }
  if (file.filename() != "summary.json" && file.filename() != "config.json")
    return content_of(file);
  Json json = read_json(file);
  json.erase("seconds");
  for (const std::string& name : do_not_matter()) {
    if (json.contains("settings")) json["settings"].erase(name);
  }
  return json.dump();
}

// The files that a cell leaves, but for those about how it came about.
std::set<std::string> files_of(const fs::path& cell) {
  std::set<std::string> names = harness::names_in(cell);
  std::erase_if(names, [](const std::string& name) {
    return name == ".lock" || name == "log.txt" || name.ends_with(".previous");
  });
  return names;
}

void expect_same_cell(const fs::path& a, const fs::path& b) {
  const std::set<std::string> names = files_of(a);
  EXPECT_EQ(names, files_of(b)) << b;
  EXPECT_TRUE(names.contains("summary.json") && names.contains("model.safetensors")) << a;
  for (const std::string& name : names) {
    EXPECT_EQ(of_results(a / name), of_results(b / name)) << b << " " << name;
  }
}

class CudaSweep : public harness::CudaTest {
 protected:
  // Of processes, threads and files: kernels have tests of their own, in all orders.
  CudaSweep() { unsetenv("SIDECHANNEL_EMULATOR_VERIFY"); }

  // Every cell in a process of its own, one after the other. They are the same for all tests.
  static std::string each_alone() {
    static const harness::TemporaryFolder folder;
    static const std::string out = [] {
      std::string sweep = folder / "alone";
      EXPECT_EQ(run_program("sweep", tiny("plan", sweep)).code, 0);
      for (std::size_t cell = 0; cell < kCells.size(); ++cell) {
        EXPECT_EQ(run_program("sweep", alone(sweep, cell)).code, 0);
      }
      return sweep;
    }();
    return out;
  }

  static void expect_each_as_alone(const std::string& out) {
    for (const std::string& cell : kCells) {
      expect_same_cell(fs::path(each_alone()) / "cells" / cell, fs::path(out) / "cells" / cell);
    }
  }

  fs::path cell(std::size_t number) const { return fs::path(out_) / "cells" / kCells[number]; }
  std::string log_of(std::size_t number) const { return content_of(cell(number) / "log.txt"); }
  // The one process that works on the cells of a sweep.
  static int process_of(int sweep) {
    std::map<int, std::string> workers;
    EXPECT_TRUE(harness::wait_until([&] {
      workers = harness::workers_of(sweep);
      return !workers.empty();
    }));
    return workers.empty() ? 0 : workers.begin()->first;
  }

  const harness::TemporaryFolder folder_;
  const std::string out_ = folder_ / "sweep";
};

TEST_F(CudaSweep, CellsOfOneProcessGiveTheBytesOfEachAlone) {
  const int pid = harness::start_program("sweep", together(out_));
  std::map<int, std::string> processes;
  std::ptrdiff_t most = 0;
  const auto runs = [&] {
    siginfo_t info = {};
    waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT);
    return info.si_pid == 0;
  };
  while (runs()) {
    processes.merge(harness::workers_of(pid));
    most = std::max(most, std::ranges::count_if(kCells, [&](const std::string& id) {
                      return FolderLock::is_held(fs::path(out_) / "cells" / id);
                    }));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  EXPECT_EQ(harness::wait_for_program(pid), 0);
  ASSERT_EQ(processes.size(), 1u);
  EXPECT_EQ(processes.begin()->second, "-");
  EXPECT_EQ(most, 3);
  expect_each_as_alone(out_);
  for (std::size_t i = 0; i < kCells.size(); ++i) {  // each log is the cell's own
    EXPECT_TRUE(has(log_of(i), kCells[i] + ": localization distance ")) << i;
    for (std::size_t other = 0; other < kCells.size(); ++other) {
      EXPECT_EQ(log_of(i).find(kCells[other]) != std::string::npos, i == other) << i;
    }
  }
  EXPECT_EQ(content_of(out_ + "/log.txt"), "");
}

TEST_F(CudaSweep, StopsAndContinues) {
  EXPECT_GT(harness::runs_until_done("sweep", together(out_, "--stop-after 11")), 2);
  expect_each_as_alone(out_);
}

TEST_F(CudaSweep, ASignalStopsEveryCellWithItsState) {
  const int pid = harness::start_program("sweep", together(out_, "--set iterations=1000000"));
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(harness::wait_for_file(cell(i) / "checkpoint.safetensors"));
  }
  const int process = process_of(pid);
  kill(pid, SIGTERM);
  EXPECT_EQ(harness::wait_for_program(pid), kExitInterrupted);
  EXPECT_NE(kill(process, 0), 0) << "still there";
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(has(log_of(i), "train: stopped at step ")) << i;
  }
  EXPECT_EQ(run_program("sweep", {"status", "--out", out_}).out,
            out_ + ": 4 cells\n interrupted    3  (0-2)\n     waiting    1  (3)\n");
}

// By whomever: what was theirs goes on in another process, to the same bytes.
TEST_F(CudaSweep, AProcessThatIsToldToEndLosesNothing) {
  const int pid = harness::start_program("sweep", together(out_));
  EXPECT_TRUE(harness::wait_for_file(cell(1) / "checkpoint.safetensors"));
  kill(process_of(pid), SIGTERM);
  EXPECT_EQ(harness::wait_for_program(pid), 0);
  expect_each_as_alone(out_);
}

TEST_F(CudaSweep, CellsOfAKilledProcessContinueInTheirOwn) {
  const int pid = harness::start_program("sweep", together(out_));
  EXPECT_TRUE(harness::wait_for_file(cell(1) / "checkpoint.safetensors"));
  kill(process_of(pid), SIGKILL);
  std::set<std::string> own;
  EXPECT_TRUE(harness::wait_until([&] {
    for (const auto& [worker, cell] : harness::workers_of(pid)) own.insert(cell);
    return own.contains("1");
  }));
  EXPECT_EQ(harness::wait_for_program(pid), 0);
  expect_each_as_alone(out_);
}

TEST_F(CudaSweep, ACellThatFailsStopsNoOther) {
  const ProgramResult result =
      run_program("sweep", tiny("run", out_, "--device cuda --jobs 3 --checkpoint-every 1",
                                "--over groups=1,2 --over learning_rate=1e-3,1e30"));
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(has(result.err, "sweep: " + out_ + ": 2 of 4 cells failed ("));
  const std::string status = run_program("sweep", {"status", "--out", out_}).out;
  EXPECT_TRUE(has(status, "    finished    2  (0-1)\n      failed    2  (2-3)\n"));
  EXPECT_TRUE(has(status, "failed: 2 " + cell_of(1, "1e+30") + ": step "));
  EXPECT_TRUE(has(content_of(out_ + "/cells/" + cell_of(1, "1e+30") + "/log.txt"), "sweep: step "));
}

TEST_F(CudaSweep, OnlyTheSweepTellsOfCells) {
  ASSERT_EQ(run_program("sweep", tiny("plan", out_)).code, 0);
  const std::string line = "$BIN/sweep run --device cuda --out " + out_ + " --cell - </dev/null";
  harness::expect_refusal(harness::run_shell(line), "sweep", 2,
                          "--cell -: is for `run` alone, which tells of cells");
}

#if SIDECHANNEL_CUDA_EMULATED

// The result of a line with a variable of the environment that says what goes wrong.
ProgramResult run_with(const std::string& variable, int value, const Words& arguments) {
  std::string line = fmt::format("{}={} $BIN/sweep", variable, value);
  for (const std::string& word : arguments) line += " " + word;
  return harness::run_shell(line);
}

TEST_F(CudaSweep, MemoryThatOneCellMissesIsItsFailureAlone) {
  const ProgramResult result = run_with("SIDECHANNEL_EMULATOR_FAIL_ALLOCATION", 30, together(out_));
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(has(result.err, ": 1 of 4 cells failed ("));
  EXPECT_TRUE(has(result.err, ": CUDA: out of memory on emulated GPU: "));
  const std::string status = run_program("sweep", {"status", "--out", out_}).out;
  EXPECT_TRUE(has(status, "    finished    3  ("));
  EXPECT_TRUE(has(status, ": CUDA: out of memory on emulated GPU: "));

  EXPECT_EQ(run_program("sweep", together(out_)).code, 0);
  expect_each_as_alone(out_);
}

// The fault of a kernel ends all that its process has on the GPU.
TEST_F(CudaSweep, CellsOfAProcessWithAFaultContinueInTheirOwn) {
  constexpr const char* kFails = "SIDECHANNEL_EMULATOR_FAIL_LAUNCH";
  // More launches than one cell makes, less than all of them.
  int launch = 1000;
  for (int code = 1; code != 0; launch *= 3) {
    const harness::TemporaryFolder folder;
    ASSERT_EQ(run_program("sweep", tiny("plan", folder / "one")).code, 0);
    const ProgramResult result = run_with(kFails, launch, alone(folder / "one", 0));
    code = result.code;
    EXPECT_EQ(code == 0, result.err.find("an illegal memory access was") == std::string::npos);
    if (code == 0) break;
    ASSERT_LT(launch, 1'000'000);
  }
  const ProgramResult result = run_with(kFails, launch, together(out_));
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_TRUE(has(result.err,
                  ": the process that it shared ended with exit code 1, it continues in one of its "
                  "own\n"));
  expect_each_as_alone(out_);
}

#endif

}  // namespace
}  // namespace sidechannel::experiments
