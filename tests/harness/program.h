#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace sidechannel::harness {

using Words = std::vector<std::string>;
// Those of a line, which spaces part, and behind them `more`, as they are.
Words words(const std::string& line, const Words& more = {});
Words with(Words words, const Words& more);

// Whether a text holds a part, begins or ends with it; a failure shows the text.
testing::AssertionResult has(const std::string& text, const std::string& part);
testing::AssertionResult begins(const std::string& text, const std::string& part);
testing::AssertionResult ends(const std::string& text, const std::string& part);
// The last of its lines, without the newline.
std::string last_line(const std::string& text);

// What a program left behind.
struct ProgramResult {
  int code;  // its exit code, or -SIGNAL
  std::string out;
  std::string err;
};

// Runs a program of this build ("localization") to its end.
ProgramResult run_program(const std::string& name, const Words& arguments);

// Runs a line of the shell (bash) in which $BIN is the folder of the programs, and $LIMITS what
// LD_PRELOAD takes to refuse them things: tests/preload/limits.cpp.
ProgramResult run_shell(const std::string& line);

// Starts it and returns its process id; its output goes to /dev/null.
int start_program(const std::string& name, const Words& arguments);
// Waits for a started one; its exit code, or -SIGNAL.
int wait_for_program(int pid);
// Looks every millisecond, for at most 20 s, whether something has come to be so. Whether it has.
bool wait_until(const std::function<bool()>& is_so);
bool wait_for_file(const std::filesystem::path& path);

// The processes that run_workers has started in the process `parent`, and the cell of each; "-" for
// several.
std::map<int, std::string> workers_of(int parent);

// That a program refused what it was asked: one line, "NAME: MESSAGE", and nothing else.
void expect_refusal(const ProgramResult& result, const std::string& name, int code,
                    const std::string& message);

// Runs a program again and again until it is done, and expects it to have been interrupted before
// (exit code 75). How often it ran, at most 100 times.
int runs_until_done(const std::string& name, const Words& arguments);

// Starts a program and kills it (SIGKILL) within 60 ms after it has begun, `most` times or until it
// is done first, but not after 20 s: as often as fits where programs start slowly. Calls `look`
// after each. How often it was killed.
int kill_repeatedly(
    const std::string& name, const Words& arguments, int most,
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

// A test with a folder of its own, and the place in it that most use.
class FolderTest : public testing::Test {
 protected:
  const TemporaryFolder folder_;
  const std::string out_ = folder_ / "run";
};

// A file below tests/. Where that folder is not where it was when this was built, the environment's
// SIDECHANNEL_TEST_DATA says where it is; so does SIDECHANNEL_BIN_DIR of the programs.
std::filesystem::path test_data(const std::string& name);

// The bytes of a file; empty when it is not there.
std::string content_of(const std::filesystem::path& path);
// The names in a folder.
std::set<std::string> names_in(const std::filesystem::path& folder);
// That both folders hold these files, the same to the byte, and not empty.
void expect_same_files(const std::filesystem::path& a, const std::filesystem::path& b,
                       const Words& names);

}  // namespace sidechannel::harness
