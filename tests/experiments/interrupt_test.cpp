// Signals end the programs within two seconds, whatever they are doing.

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include "experiments/run/interrupt.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

using Clock = std::chrono::steady_clock;
using harness::TemporaryFolder;
using std::chrono::milliseconds;

constexpr double kPromised = 2;
constexpr double kSlack = 0.5;  // for the system

double end(int pid, int signal, int* code) {
  const Clock::time_point asked = Clock::now();
  kill(pid, signal);
  *code = harness::wait_for_program(pid);
  return std::chrono::duration<double>(Clock::now() - asked).count();
}

bool has_temporary_file(const std::filesystem::path& folder) {
  if (!std::filesystem::exists(folder)) return false;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().string().ends_with(".tmp")) return true;
  }
  return false;
}

TEST(Interrupt, AnEarlySignalEndsAProgramAtOnceAndLeavesNoTemporaryFile) {
  const std::vector<std::pair<const char*, std::vector<std::string>>> commands = {
      {"localization", {"run"}},
      {"overlap", {"run", "--jobs", "2"}},
      {"sweep", {"plan", "--preset", "groups/demo", "--over", "seed=0..3332"}},
      {"sweep", {"run", "--preset", "groups/demo", "--jobs", "2"}}};
  int ended = 0;
  for (int i = 0; i < 24; ++i) {
    const auto& [program, words] = commands[static_cast<std::size_t>(i) % commands.size()];
    const TemporaryFolder folder;
    std::vector<std::string> arguments = words;
    arguments.insert(arguments.end(), {"--out", folder / "run"});
    if (words.front() == "run") arguments.insert(arguments.end(), {"--device", "cpu"});
    const int pid = harness::start_program(program, arguments);
    std::this_thread::sleep_for(milliseconds(5 * i));
    int code = 0;
    const int signal = i % 2 == 0 ? SIGTERM : SIGINT;
    EXPECT_LT(end(pid, signal, &code), kPromised + kSlack) << program;
    // Before main() the system's own way; a plan may have been done by then.
    EXPECT_TRUE(code == kExitInterrupted || code == -signal || code == 0) << code;
    ended += code == kExitInterrupted ? 1 : 0;
    EXPECT_FALSE(has_temporary_file(folder.path())) << program;
  }
  EXPECT_GT(ended, 6);
}

// A step of many seconds: long convolutions on one thread.
TEST(Interrupt, ALongStepIsNotWaitedFor) {
  const TemporaryFolder folder;
  const std::string out = folder / "run";
  const int pid = harness::start_program(
      "localization", harness::words("train --length 8000 --kernel-size 999 --channels 24 "
                                     "--depth 10 --batch 8 --threads 1 --device cpu --out",
                                     {out}));
  harness::wait_for_file(out + "/checkpoint.safetensors");
  std::this_thread::sleep_for(milliseconds(200));
  int code = 0;
  EXPECT_LT(end(pid, SIGTERM, &code), kPromised + kSlack);
  EXPECT_EQ(code, kExitInterrupted);
  EXPECT_TRUE(std::filesystem::exists(out + "/checkpoint.safetensors"));
}

// What nohup does: the run goes on when the terminal is closed.
TEST(Interrupt, AHangUpThatIsIgnoredStaysIgnored) {
  const TemporaryFolder folder;
  const std::string out = folder / "run";
  const auto before = std::signal(SIGHUP, SIG_IGN);
  const int pid = harness::start_program(
      "localization", {"train", "--iterations", "1000000", "--device", "cpu", "--out", out});
  std::signal(SIGHUP, before);
  harness::wait_for_file(out + "/checkpoint.safetensors");
  kill(pid, SIGHUP);
  std::this_thread::sleep_for(milliseconds(300));
  ASSERT_EQ(waitpid(pid, nullptr, WNOHANG), 0);  // it runs
  int code = 0;
  EXPECT_LT(end(pid, SIGTERM, &code), kPromised + kSlack);
  EXPECT_EQ(code, kExitInterrupted);
}

}  // namespace
}  // namespace sidechannel::experiments
