#include "tests/harness/program.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <random>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "experiments/run/interrupt.h"

namespace sidechannel::harness {
namespace {

namespace fs = std::filesystem;

// A folder that the build knew, unless the environment knows better.
fs::path folder_of(const char* variable, const char* built) {
  const char* const given = std::getenv(variable);
  return given != nullptr && *given != '\0' ? given : built;
}

int spawn(const std::string& program, const std::vector<std::string>& arguments,
          const std::string& out, const std::string& err) {
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const int pid = fork();
  if (pid < 0) throw std::runtime_error("fork failed");
  if (pid == 0) {
    const auto redirect = [](const std::string& path, int descriptor) {
      const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
      dup2(file, descriptor);
      close(file);
    };
    redirect(out, STDOUT_FILENO);
    redirect(err, STDERR_FILENO);
    execv(argv[0], argv.data());
    _exit(127);
  }
  return pid;
}

fs::path programs() {
  return folder_of("SIDECHANNEL_BIN_DIR", SIDECHANNEL_BIN_DIR);
}

ProgramResult run(const std::string& program, const std::vector<std::string>& arguments) {
  const TemporaryFolder folder;
  const int pid = spawn(program, arguments, folder / "out", folder / "err");
  const int code = wait_for_program(pid);
  return {code, content_of(folder / "out"), content_of(folder / "err")};
}

}  // namespace

ProgramResult run_program(const std::string& name, const std::vector<std::string>& arguments) {
  return run(programs() / name, arguments);
}

ProgramResult run_shell(const std::string& line) {
  // AddressSanitizer wants to be loaded first, unless it is told otherwise.
  const std::string before =
      "BIN=$1 LIMITS=$1/libsidechannel_limits.so; "
      "export ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS-}; ";
  return run("/bin/bash", {"-c", before + line, "bash", programs()});
}

int start_program(const std::string& name, const std::vector<std::string>& arguments) {
  return spawn(programs() / name, arguments, "/dev/null", "/dev/null");
}

int wait_for_program(int pid) {
  int status = 0;
  if (waitpid(pid, &status, 0) != pid) throw std::runtime_error("waitpid failed");
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

void expect_refusal(const ProgramResult& result, const std::string& name, int code,
                    const std::string& message) {
  EXPECT_EQ(result.code, code) << message;
  EXPECT_EQ(result.err, name + ": " + message + "\n");
  EXPECT_EQ(result.out, "");
}

int runs_until_done(const std::string& name, const std::vector<std::string>& arguments) {
  for (int runs = 1; runs <= 100; ++runs) {
    const ProgramResult result = run_program(name, arguments);
    if (result.code == 0) return runs;
    if (result.code != experiments::kExitInterrupted) {
      ADD_FAILURE() << "exit code " << result.code << ": " << result.err;
      return runs;
    }
  }
  ADD_FAILURE() << "not done after 100 runs";
  return 100;
}

int kill_repeatedly(const std::string& name, const std::vector<std::string>& arguments, int most,
                    const std::function<void()>& look) {
  using Clock = std::chrono::steady_clock;
  using std::chrono::milliseconds;
  // Loading a GPU's libraries takes half a second: a kill before main() would test nothing.
  const Clock::time_point start = Clock::now();
  EXPECT_EQ(run_program(name, {"--version"}).code, 0);
  const Clock::time_point loaded = Clock::now();
  const auto until_main = std::chrono::duration_cast<milliseconds>(loaded - start);
  constexpr std::chrono::seconds kEnough(20);
  std::mt19937 random(7);
  int killed = 0;
  for (; killed < most && Clock::now() - loaded < kEnough; ++killed) {
    const int pid = start_program(name, arguments);
    std::this_thread::sleep_for(until_main + milliseconds(random() % 60));
    kill(pid, SIGKILL);
    const int code = wait_for_program(pid);
    if (code == 0) break;
    if (code != -SIGKILL) {
      ADD_FAILURE() << "exit code " << code;
      break;
    }
    look();
  }
  return killed;
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (fs::temp_directory_path() / "sidechannel-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp failed");
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::permissions(path_, fs::perms::owner_all, ignored);
  fs::remove_all(path_, ignored);
}

fs::path test_data(const std::string& name) {
  return folder_of("SIDECHANNEL_TEST_DATA", SIDECHANNEL_TEST_DATA) / name;
}

std::string content_of(const fs::path& path) {
  // Through <<, since iterators throw where a process ends while its /proc is read.
  std::ostringstream content;
  content << std::ifstream(path, std::ios::binary).rdbuf();
  return content.str();
}

}  // namespace sidechannel::harness
