#include "tests/harness/program.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
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

int spawn(const std::string& program, const Words& arguments, const std::string& out,
          const std::string& err) {
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

ProgramResult run(const std::string& program, const Words& arguments) {
  const TemporaryFolder folder;
  const int pid = spawn(program, arguments, folder / "out", folder / "err");
  const int code = wait_for_program(pid);
  return {code, content_of(folder / "out"), content_of(folder / "err")};
}

testing::AssertionResult holds(bool is_so, const std::string& text, const char* what,
                               const std::string& part) {
  if (is_so) return testing::AssertionSuccess();
  return testing::AssertionFailure() << '"' << text << "\" " << what << " \"" << part << '"';
}

}  // namespace

Words words(const std::string& line, const Words& more) {
  std::istringstream text(line);
  return with(Words(std::istream_iterator<std::string>(text), {}), more);
}

Words with(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

testing::AssertionResult has(const std::string& text, const std::string& part) {
  return holds(text.find(part) != text.npos, text, "does not hold", part);
}

testing::AssertionResult begins(const std::string& text, const std::string& part) {
  return holds(text.starts_with(part), text, "does not begin with", part);
}

testing::AssertionResult ends(const std::string& text, const std::string& part) {
  return holds(text.ends_with(part), text, "does not end with", part);
}

std::string last_line(const std::string& text) {
  const std::size_t end = text.find_last_not_of('\n') + 1;
  const std::size_t begin = text.rfind('\n', end - 1) + 1;
  return text.substr(begin, end - begin);
}

ProgramResult run_program(const std::string& name, const Words& arguments) {
  return run(programs() / name, arguments);
}

ProgramResult run_shell(const std::string& line) {
  // AddressSanitizer wants to be loaded first, unless it is told otherwise.
  const std::string before =
      "BIN=$1 LIMITS=$1/libsidechannel_limits.so; "
      "export ASAN_OPTIONS=verify_asan_link_order=0:${ASAN_OPTIONS-}; ";
  return run("/bin/bash", {"-c", before + line, "bash", programs()});
}

int start_program(const std::string& name, const Words& arguments) {
  return spawn(programs() / name, arguments, "/dev/null", "/dev/null");
}

int wait_for_program(int pid) {
  int status = 0;
  if (waitpid(pid, &status, 0) != pid) throw std::runtime_error("waitpid failed");
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

bool wait_until(const std::function<bool()>& is_so) {
  for (int i = 0; i < 20'000 && !is_so(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return is_so();
}

bool wait_for_file(const fs::path& path) {
  return wait_until([&] { return fs::exists(path); });
}

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

void expect_refusal(const ProgramResult& result, const std::string& name, int code,
                    const std::string& message) {
  EXPECT_EQ(result.code, code) << message;
  EXPECT_EQ(result.err, name + ": " + message + "\n");
  EXPECT_EQ(result.out, "");
}

int runs_until_done(const std::string& name, const Words& arguments) {
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

int kill_repeatedly(const std::string& name, const Words& arguments, int most,
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

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename());
  return names;
}

void expect_same_files(const fs::path& a, const fs::path& b, const Words& names) {
  for (const std::string& name : names) {
    EXPECT_EQ(content_of(a / name), content_of(b / name)) << name << " of " << a << " and " << b;
    EXPECT_NE(content_of(a / name), "") << a / name;
  }
}

}  // namespace sidechannel::harness
