#include "engine/io/folder_lock.h"

#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <optional>
#include <string>

#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel {
namespace {

using harness::content_of;
using harness::error_of;
using std::chrono::milliseconds;

// A file system without locks, as long as it lives.
class NoLocks {
 public:
  explicit NoLocks(int error) {
    error_ = error;
    FileSystemCalls without = real_;
    without.flock = [](int, int) {
      errno = error_;
      return -1;
    };
    replace_file_system_calls(without);
  }
  NoLocks(const NoLocks&) = delete;
  NoLocks& operator=(const NoLocks&) = delete;
  ~NoLocks() { replace_file_system_calls(real_); }

 private:
  static FileSystemCalls now() {
    const FileSystemCalls calls = replace_file_system_calls({});
    replace_file_system_calls(calls);
    return calls;
  }
  inline static int error_ = 0;
  FileSystemCalls real_ = now();
};

class FolderLockTest : public testing::TestWithParam<int> {
 protected:
  FolderLockTest() {
    if (GetParam() != 0) none_.emplace(GetParam());
  }
  std::string refusal() const {
    return error_of([&] { const FolderLock lock(folder_.path(), milliseconds(0)); });
  }
  std::string owner() const { return folder_ / ".lock.owner"; }

  harness::TemporaryFolder folder_;
  std::optional<NoLocks> none_;
};

TEST_P(FolderLockTest, IsOneProcesssAtATime) {
  EXPECT_FALSE(FolderLock::is_held(folder_.path()));
  {
    const FolderLock lock(folder_.path());
    EXPECT_TRUE(FolderLock::is_held(folder_.path()));
    EXPECT_EQ(refusal(), folder_.path().string() + ": another process is working in this folder");
  }
  EXPECT_FALSE(FolderLock::is_held(folder_.path()));
  EXPECT_EQ(refusal(), "no error");
  EXPECT_FALSE(std::filesystem::exists(owner()));
}

TEST_P(FolderLockTest, EndsWithItsProcessWhateverEndsIt) {
  const pid_t child = ::fork();
  if (child == 0) {
    new FolderLock(folder_.path());  // never given back
    ::_exit(0);
  }
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_FALSE(FolderLock::is_held(folder_.path()));
  EXPECT_EQ(refusal(), "no error");
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutLocks, FolderLockTest,
                         testing::Values(0, ENOLCK, EOPNOTSUPP, ENOSYS, EPERM));

// To open one, or to read it, would wait for whoever writes it.
TEST(FolderLockOwner, PipesInItsPlacesAreNotWaitedFor) {
  const harness::TemporaryFolder folder;
  ASSERT_EQ(::mkfifo((folder / ".lock").c_str(), 0600), 0);
  ASSERT_EQ(::mkfifo((folder / ".lock.owner").c_str(), 0600), 0);
  EXPECT_FALSE(FolderLock::is_held(folder.path()));
  const FolderLock lock(folder.path(), milliseconds(0));
}

TEST(FolderLockOwner, OfAnotherHostIsNotTakenOver) {
  const harness::TemporaryFolder folder;
  const NoLocks none(ENOLCK);
  const std::string file = folder / ".lock.owner";
  for (const char* line : {"other-host 0-0 pid:[1] 12 345", "torn"}) {
    std::ofstream(file) << line;
    EXPECT_TRUE(FolderLock::is_held(folder.path())) << line;
    const std::string message =
        error_of([&] { const FolderLock lock(folder.path(), milliseconds(0)); });
    EXPECT_TRUE(message.ends_with("is working in this folder; if it is gone, remove " + file))
        << message;
    EXPECT_EQ(content_of(file), line);
  }
}

}  // namespace
}  // namespace sidechannel
