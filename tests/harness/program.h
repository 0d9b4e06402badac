#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace sidechannel::harness {

// What a program left behind.
struct ProgramResult {
  int code;  // its exit code, or -SIGNAL
  std::string out;
  std::string err;
};

// Runs a program of this build ("localization") to its end.
ProgramResult run_program(const std::string& name, const std::vector<std::string>& arguments);

// Runs a line of the shell (bash) in which $BIN is the folder of the programs, and $LIMITS what
// LD_PRELOAD takes to refuse them things: tests/preload/limits.cpp.
ProgramResult run_shell(const std::string& line);

// Starts it and returns its process id; its output goes to /dev/null.
int start_program(const std::string& name, const std::vector<std::string>& arguments);
// Waits for a started one; its exit code, or -SIGNAL.
int wait_for_program(int pid);

// That a program refused what it was asked: one line, "NAME: MESSAGE", and nothing else.
void expect_refusal(const ProgramResult& result, const std::string& name, int code,
                    const std::string& message);

// Runs a program again and again until it is done, and expects it to have been interrupted before
// (exit code 75). How often it ran, at most 100 times.
int runs_until_done(const std::string& name, const std::vector<std::string>& arguments);

// Starts a program and kills it (SIGKILL) within 60 ms after it has begun, `most` times or until it
// is done first, but not after 20 s: as often as fits where programs start slowly. Calls `look`
// after each. How often it was killed.
int kill_repeatedly(
    const std::string& name, const std::vector<std::string>& arguments, int most,
    const std::function<void()>& look = [] {});

// A folder of its own under the system's temporary one, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// A file below tests/. Where that folder is not where it was when this was built, the environment's
// SIDECHANNEL_TEST_DATA says where it is; so does SIDECHANNEL_BIN_DIR of the programs.
std::filesystem::path test_data(const std::string& name);

// The bytes of a file; empty when it is not there.
std::string content_of(const std::filesystem::path& path);

}  // namespace sidechannel::harness
