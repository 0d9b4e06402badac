#include "engine/io/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <set>
#include <string>

#include "engine/io/json.h"
#include "engine/io/npy.h"
#include "engine/io/safetensors.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel {
namespace {

using harness::content_of;
using harness::error_of;
using harness::names_in;

namespace fs = std::filesystem;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

// A disk that fails once, at one call or one kind of call, and records all calls.
struct FaultyDisk {
  std::function<bool(int index, std::string_view call)> strikes;
  std::function<ssize_t(std::size_t size)> fault;  // the failing call's result; sets errno
  std::vector<std::string> log;
  FileSystemCalls real;

  inline static FaultyDisk* current = nullptr;

  template <class Real>
  static ssize_t meet(const char* call, std::size_t size, Real really) {
    const int index = static_cast<int>(current->log.size());
    current->log.emplace_back(call);
    if (!current->strikes(index, call)) return really(size);
    const ssize_t result = current->fault(size);
    // A short transfer happens, as far as it goes; and close() frees the descriptor even as it
    // fails.
    if (result > 0) return really(static_cast<std::size_t>(result));
    if (std::string_view(call) == "close") {
      const int error = errno;
      really(size);
      errno = error;
    }
    return result;
  }

  template <std::size_t n>
  struct Name {
    constexpr Name(const char (&literal)[n]) { std::copy_n(literal, n, text); }
    char text[n];
  };
  // In the place of a call that returns a status.
  template <Name kName, auto kCall, class... Arguments>
  static int status(Arguments... arguments) {
    return static_cast<int>(
        meet(kName.text, 0, [&](std::size_t) { return (current->real.*kCall)(arguments...); }));
  }

  FaultyDisk(std::function<bool(int, std::string_view)> when,
             std::function<ssize_t(std::size_t)> what)
      : strikes(std::move(when)), fault(std::move(what)) {
    current = this;
    real = replace_file_system_calls({
        .open = status<"open", &FileSystemCalls::open>,
        .read =
            [](int fd, void* buffer, std::size_t size) {
              return meet("read", size,
                          [&](std::size_t n) { return current->real.read(fd, buffer, n); });
            },
        .write =
            [](int fd, const void* buffer, std::size_t size) {
              return meet("write", size,
                          [&](std::size_t n) { return current->real.write(fd, buffer, n); });
            },
        .ftruncate = status<"truncate", &FileSystemCalls::ftruncate>,
        .fsync = status<"fsync", &FileSystemCalls::fsync>,
        .close = status<"close", &FileSystemCalls::close>,
        .link = status<"link", &FileSystemCalls::link>,
        .rename = status<"rename", &FileSystemCalls::rename>,
        .unlink = status<"unlink", &FileSystemCalls::unlink>,
        .flock = status<"flock", &FileSystemCalls::flock>,
    });
  }
  FaultyDisk(const FaultyDisk&) = delete;
  FaultyDisk& operator=(const FaultyDisk&) = delete;
  ~FaultyDisk() { replace_file_system_calls(real); }
};

bool never(int, std::string_view) {
  return false;
}
auto at(int wanted) {
  return [wanted](int index, std::string_view) { return index == wanted; };
}
auto each(std::string wanted) {
  return [wanted](int, std::string_view call) { return call == wanted; };
}
auto first(std::string wanted) {
  return [wanted, done = false](int, std::string_view call) mutable {
    return call == wanted && !std::exchange(done, true);
  };
}
auto failing(int error) {
  return [error](std::size_t) -> ssize_t {
    errno = error;
    return -1;
  };
}
ssize_t halving(std::size_t size) {
  return static_cast<ssize_t>(size / 2);
}

class FileTest : public testing::Test {
 protected:
  // An old file with a still older one beside it, and nothing else.
  void set_up_old() {
    for (const auto& name : names_in(folder_)) fs::remove(folder_ / name);
    write_file_durably(path_, bytes_of(kOlder));
    write_file_durably(path_, bytes_of(kOld), KeepPrevious::kYes);
  }

  // How many calls a write makes, and which.
  std::vector<std::string> calls_of_a_write(KeepPrevious keep) {
    set_up_old();
    FaultyDisk disk(never, failing(0));
    write_file_durably(path_, bytes_of(kNew), keep);
    return disk.log;
  }

  const std::string kOlder = "older", kOld = "the old content", kNew = "the new content, longer";
  const harness::TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path(), path_ = folder_ / "model";
};

TEST_F(FileTest, ReadsWhatWasWritten) {
  for (const std::string& content :
       {std::string(), std::string("a\0b\n", 4), std::string(1 << 20, 'x')}) {
    write_file_durably(path_, bytes_of(content));
    const auto bytes = read_file(path_);
    EXPECT_TRUE(std::ranges::equal(bytes, bytes_of(content)));
    EXPECT_EQ(names_in(folder_), std::set<std::string>{"model"});
  }
}

TEST_F(FileTest, KeepsThePreviousFileOnlyWhenAsked) {
  write_file_durably(path_, bytes_of("1"), KeepPrevious::kYes);
  EXPECT_EQ(names_in(folder_), std::set<std::string>{"model"});
  write_file_durably(path_, bytes_of("2"), KeepPrevious::kYes);
  write_file_durably(path_, bytes_of("3"), KeepPrevious::kYes);
  EXPECT_EQ(content_of(path_), "3");
  EXPECT_EQ(content_of(previous_of(path_)), "2");
  write_file_durably(path_, bytes_of("4"));
  EXPECT_EQ(content_of(path_), "4");
  EXPECT_EQ(content_of(previous_of(path_)), "2");
}

TEST_F(FileTest, WritesIntoTheWorkingFolder) {
  const fs::path here = fs::current_path();
  fs::current_path(folder_);
  write_file_durably("plain", bytes_of("x"));
  fs::current_path(here);
  EXPECT_EQ(content_of(folder_ / "plain"), "x");
}

TEST_F(FileTest, SaysWhyAFileCannotBeReadOrWritten) {
  const auto reading = [&](const fs::path& path) { return error_of([&] { read_file(path); }); };
  EXPECT_EQ(reading(path_), "cannot read " + path_.string() + ": No such file or directory");
  EXPECT_EQ(reading(folder_), folder_.string() + " is a folder, expected a file");
  EXPECT_EQ(reading("/dev/null"), "/dev/null is a device or a pipe, expected a file");
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_EQ(reading(path_), path_.string() + " is a device or a pipe, expected a file");

  const fs::path missing = folder_ / "missing" / "model";
  EXPECT_EQ(error_of([&] { write_file_durably(missing, bytes_of("x")); }),
            "cannot open " + (missing.parent_path() / ".model.tmp").string() +
                ": No such file or directory");
  EXPECT_EQ(
      error_of([&] { write_file_durably(folder_, bytes_of("x")); }),
      fmt::format("cannot rename {}/.{}.tmp to {}: Is a directory", folder_.parent_path().string(),
                  folder_.filename().string(), folder_.string()));
}

TEST_F(FileTest, ReadsOnAfterShortReadsAndSignals) {
  write_file_durably(path_, bytes_of(kOld));
  {
    FaultyDisk disk(each("read"), [](std::size_t) -> ssize_t { return 1; });
    EXPECT_EQ(read_file(path_).size(), kOld.size());
  }
  for (const std::string call : {"open", "read"}) {
    FaultyDisk disk(first(call), failing(EINTR));
    EXPECT_EQ(read_file(path_).size(), kOld.size());
    EXPECT_EQ(std::ranges::count(disk.log, call), 2);
  }
}

TEST_F(FileTest, SaysThatAFileEndedEarlyOrCouldNotBeRead) {
  write_file_durably(path_, bytes_of(kOld));
  const auto reading = [&] { read_file(path_); };
  {
    FaultyDisk disk(first("read"), failing(EIO));
    EXPECT_EQ(error_of(reading), "cannot read " + path_.string() + ": Input/output error");
  }
  FaultyDisk disk(each("read"), [](std::size_t size) -> ssize_t { return size > 12 ? 3 : 0; });
  EXPECT_EQ(error_of(reading), "cannot read " + path_.string() + ": expected 15 bytes, got 3");
}

TEST_F(FileTest, MakesTheCallsOfADurableWriteInOrder) {
  using Calls = std::vector<std::string>;
  EXPECT_EQ(calls_of_a_write(KeepPrevious::kNo),
            (Calls{"unlink", "open", "write", "fsync", "close", "rename", "open", "fsync", "close",
                   "unlink"}));
  EXPECT_EQ(calls_of_a_write(KeepPrevious::kYes),
            (Calls{"unlink", "open", "write", "fsync", "close", "unlink", "link", "rename",
                   "unlink", "rename", "open", "fsync", "close", "unlink"}));
}

TEST_F(FileTest, EveryFailingCallLeavesTheOldOrTheNewContent) {
  const auto open_files = [] { return names_in("/proc/self/fd").size(); };
  for (const KeepPrevious keep : {KeepPrevious::kNo, KeepPrevious::kYes}) {
    const std::vector<std::string> calls = calls_of_a_write(keep);
    const auto last_rename = std::ranges::find(calls.rbegin(), calls.rend(), "rename");
    const int renamed_at = static_cast<int>(calls.rend() - last_rename) - 1;
    for (int i = 0; i < std::ssize(calls); ++i) {
      const std::string& call = calls[static_cast<std::size_t>(i)];
      for (const int error : {ENOSPC, EIO}) {
        SCOPED_TRACE(fmt::format("call {}, {}, fails with {}", i, call, std::strerror(error)));
        set_up_old();
        const std::size_t open_before = open_files();
        std::string message;
        {
          FaultyDisk disk(at(i), failing(error));
          message = error_of([&] { write_file_durably(path_, bytes_of(kNew), keep); });
        }
        EXPECT_EQ(open_files(), open_before);
        EXPECT_EQ(names_in(folder_), (std::set<std::string>{"model", "model.previous"}));
        if (call == "unlink") {  // only clears up, and there was nothing to clear up
          EXPECT_EQ(message, "no error");
          EXPECT_EQ(content_of(path_), kNew);
        } else {
          EXPECT_TRUE(message.starts_with("cannot " + call + " " + folder_.string())) << message;
          EXPECT_TRUE(message.ends_with(std::string(": ") + std::strerror(error))) << message;
          EXPECT_EQ(content_of(path_), i > renamed_at ? kNew : kOld);
        }
        const std::string previous = content_of(previous_of(path_));
        EXPECT_TRUE(previous == kOlder || (keep == KeepPrevious::kYes && previous == kOld));

        const std::string current = content_of(path_);
        write_file_durably(path_, bytes_of("afterwards"), KeepPrevious::kYes);
        EXPECT_EQ(names_in(folder_), (std::set<std::string>{"model", "model.previous"}));
        EXPECT_EQ(content_of(path_), "afterwards");
        EXPECT_EQ(content_of(previous_of(path_)), current);
      }
    }
  }
}

TEST_F(FileTest, AFailedFirstWriteLeavesNothing) {
  for (const std::string call : {"open", "write", "fsync", "close", "rename"}) {
    FaultyDisk disk(first(call), failing(ENOSPC));
    const auto writing = [&] { write_file_durably(path_, bytes_of(kNew), KeepPrevious::kYes); };
    EXPECT_TRUE(error_of(writing).starts_with("cannot " + call)) << call;
    EXPECT_EQ(names_in(folder_), std::set<std::string>{}) << call;
  }
}

TEST_F(FileTest, AKillAtAnyCallLeavesTheOldOrTheNewContent) {
  for (const KeepPrevious keep : {KeepPrevious::kNo, KeepPrevious::kYes}) {
    const int calls = static_cast<int>(calls_of_a_write(keep).size());
    for (int i = 0; i < calls; ++i) {
      SCOPED_TRACE(i);
      set_up_old();
      const pid_t child = ::fork();
      if (child == 0) {
        FaultyDisk disk(at(i), [](std::size_t) -> ssize_t { return ::raise(SIGKILL); });
        write_file_durably(path_, bytes_of(kNew), keep);
        ::_exit(0);
      }
      int status = 0;
      ASSERT_EQ(::waitpid(child, &status, 0), child);
      ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
      const std::string content = content_of(path_);
      EXPECT_TRUE(content == kOld || content == kNew) << content;

      write_file_durably(path_, bytes_of("afterwards"), KeepPrevious::kYes);
      EXPECT_EQ(content_of(previous_of(path_)), content);
      EXPECT_EQ(names_in(folder_), (std::set<std::string>{"model", "model.previous"}));
    }
  }
}

TEST_F(FileTest, FinishesShortAndInterruptedWrites) {
  set_up_old();
  {
    FaultyDisk disk(each("write"),
                    [](std::size_t size) { return std::max<ssize_t>(halving(size), 1); });
    write_file_durably(path_, bytes_of(kNew));
    EXPECT_EQ(content_of(path_), kNew);
    EXPECT_GT(std::ranges::count(disk.log, "write"), 3);
  }
  for (const std::string call : {"open", "write", "fsync", "close"}) {
    set_up_old();
    FaultyDisk disk(first(call), failing(EINTR));
    write_file_durably(path_, bytes_of(kNew));
    EXPECT_EQ(content_of(path_), kNew);
  }
}

TEST_F(FileTest, ADiskThatFillsUpMidwayLeavesTheOldContent) {
  const auto writing = [&] { write_file_durably(path_, bytes_of(kNew)); };
  set_up_old();
  {
    FaultyDisk disk(each("write"), [full = false](std::size_t size) mutable {
      return std::exchange(full, true) ? failing(ENOSPC)(size) : halving(size);
    });
    EXPECT_EQ(error_of(writing),
              "cannot write " + (folder_ / ".model.tmp").string() + ": No space left on device");
  }
  {
    FaultyDisk disk(each("write"), [](std::size_t) -> ssize_t { return 0; });
    EXPECT_EQ(error_of(writing), "cannot write " + (folder_ / ".model.tmp").string() +
                                     ": the system took 0 of 23 bytes");
  }
  EXPECT_EQ(content_of(path_), kOld);
  EXPECT_EQ(names_in(folder_), (std::set<std::string>{"model", "model.previous"}));
}

TEST_F(FileTest, NeverWritesThroughWhatStandsAtTheTemporaryName) {
  const fs::path other = folder_ / "other", temporary = folder_ / ".model.tmp";
  write_file_durably(other, bytes_of("precious"));
  fs::create_symlink(other, temporary);
  {
    FaultyDisk disk(each("unlink"), failing(EPERM));
    EXPECT_EQ(error_of([&] { write_file_durably(path_, bytes_of(kNew)); }),
              "cannot open " + temporary.string() + ": File exists");
  }
  write_file_durably(path_, bytes_of(kNew));
  EXPECT_EQ(content_of(path_), kNew);
  EXPECT_EQ(content_of(other), "precious");
  EXPECT_FALSE(fs::is_symlink(path_));
}

TEST_F(FileTest, ClearsUpAfterKilledWritersAlone) {
  for (const char* name : {".model.tmp", ".model.previous.tmp", "notes.tmp", ".hidden"}) {
    std::ofstream(folder_ / name) << "x";
  }
  clear_up_after_writers(folder_);
  EXPECT_EQ(names_in(folder_), (std::set<std::string>{"notes.tmp", ".hidden"}));
  clear_up_after_writers(folder_ / "missing");
}

TEST_F(FileTest, WithoutHardLinksKeepsACopyAsThePreviousFile) {
  for (const int error : {EPERM, EOPNOTSUPP, ENOSYS, EMLINK}) {
    for (const auto& name : names_in(folder_)) fs::remove(folder_ / name);
    FaultyDisk disk(each("link"), failing(error));
    write_file_durably(path_, bytes_of("1"), KeepPrevious::kYes);
    EXPECT_EQ(names_in(folder_), std::set<std::string>{"model"});
    write_file_durably(path_, bytes_of("2"), KeepPrevious::kYes);
    write_file_durably(path_, bytes_of("3"), KeepPrevious::kYes);
    EXPECT_EQ(content_of(path_), "3");
    EXPECT_EQ(content_of(previous_of(path_)), "2");
  }
}

TEST_F(FileTest, ToleratesAFolderThatCannotBeSynced) {
  for (const int error : {EINVAL, EPERM, EBADF, EOPNOTSUPP, ENOSYS}) {
    set_up_old();
    FaultyDisk disk(at(7), failing(error));
    write_file_durably(path_, bytes_of(kNew));
    EXPECT_EQ(disk.log[7], "fsync");
    EXPECT_EQ(content_of(path_), kNew);
  }
}

TEST_F(FileTest, LogsLines) {
  {
    LineLog log(path_);
    EXPECT_EQ(log.size(), 0u);
    log.append("{\"step\": 1}");
    log.append("");
    EXPECT_EQ(log.size(), 13u);
    EXPECT_EQ(error_of([&] { log.append("a\nb"); }),
              "cannot log a line with a newline inside: \"a\\x0ab\"");
  }
  LineLog log(path_);
  EXPECT_EQ(log.size(), 13u);
  LineLog moved = std::move(log);
  FaultyDisk disk(never, failing(0));
  moved.append("{\"step\": 2}");
  moved.sync();
  EXPECT_EQ(disk.log, (std::vector<std::string>{"write", "fsync"}));
  EXPECT_EQ(moved.size(), 25u);
  EXPECT_EQ(content_of(path_), "{\"step\": 1}\n\n{\"step\": 2}\n");
}

TEST_F(FileTest, AFailedLineLeavesTheLinesBefore) {
  LineLog log(path_);
  log.append("first");
  for (const int error : {ENOSPC, EIO}) {
    FaultyDisk disk(each("write"), [error, failed = false](std::size_t size) mutable {
      return std::exchange(failed, true) ? failing(error)(size) : halving(size);
    });
    EXPECT_EQ(error_of([&] { log.append("second"); }),
              fmt::format("cannot write {}: {}", path_.string(), std::strerror(error)));
    EXPECT_EQ(content_of(path_), "first\n");
    EXPECT_EQ(log.size(), 6u);
  }
  log.append("third");
  EXPECT_EQ(content_of(path_), "first\nthird\n");
}

TEST_F(FileTest, NamesTheFailureOfTheLineAndNotOfTheClearingUp) {
  LineLog log(path_);
  FaultyDisk disk([](int, std::string_view) { return true; }, failing(EIO));
  EXPECT_EQ(error_of([&] { log.append("line"); }),
            "cannot write " + path_.string() + ": Input/output error");
}

// Opening a pipe waits for whoever reads it.
TEST_F(FileTest, ALogIsNoPipeOrDevice) {
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  const std::string refused = " is a device or a pipe, expected a file";
  EXPECT_EQ(error_of([&] { LineLog log(path_); }), path_.string() + refused);
  EXPECT_EQ(error_of([&] { LineLog::truncate_to(path_, 0); }), path_.string() + refused);
  const int reader = ::open(path_.c_str(), O_RDONLY | O_NONBLOCK);
  EXPECT_EQ(error_of([&] { LineLog log(path_); }), path_.string() + refused);
  ::close(reader);
  EXPECT_EQ(error_of([&] { LineLog log("/dev/null"); }), "/dev/null" + refused);
}

// What is read of a file before it is refused.
TEST_F(FileTest, WhatIsTooLargeOrBrokenIsRefusedBeforeItIsRead) {
  static std::size_t bytes_read;
  static FileSystemCalls real;
  const auto refusal = [&](const std::function<void()>& read) {
    bytes_read = 0;
    real = replace_file_system_calls({});
    FileSystemCalls counted = real;
    counted.read = [](int fd, void* buffer, std::size_t size) {
      bytes_read += size;
      return real.read(fd, buffer, size);
    };
    replace_file_system_calls(counted);
    const std::string message = error_of(read);
    replace_file_system_calls(real);
    const std::string prefix = path_.string() + ": ";
    EXPECT_TRUE(message.starts_with(prefix)) << message;
    EXPECT_LE(bytes_read, 1000u) << message;
    return message.substr(std::min(prefix.size(), message.size()));
  };
  const auto make = [&](std::string_view begin, std::uintmax_t size) {
    std::ofstream(path_, std::ios::binary) << begin;
    fs::resize_file(path_, size);  // the rest takes no room on the disk
  };
  constexpr std::uintmax_t kGigabyte = std::uintmax_t{1} << 30;
  const auto json = [&] { read_json(path_); };
  make("{}", 3 * kGigabyte);
  EXPECT_EQ(refusal([&] { read_file(path_); }), "expected at most 67108864 bytes, got 3221225472");
  EXPECT_EQ(refusal(json), "expected at most 67108864 bytes, got 3221225472");
  EXPECT_EQ(refusal([&] { read_file(path_, 1000); }),
            "expected at most 1000 bytes, got 3221225472");
  make("12345", 5);
  EXPECT_EQ(refusal([&] { read_file(path_, 4); }), "expected at most 4 bytes, got 5");
  EXPECT_EQ(read_file(path_, 5).size(), 5u);

  const auto npy = [&] { read_npy(path_); };
  const auto header = [&] { npy_header(path_); };
  using namespace std::string_view_literals;
  for (const auto& read : {std::function<void()>(npy), std::function<void()>(header)}) {
    make("\x93NUMPX", 8 * kGigabyte);
    EXPECT_EQ(refusal(read), "expected the magic \"\\x93NUMPY\", got \"\\x93NUMPX\"");
    make("\x93NUMPY\1\0\3\0{}\n"sv, 8 * kGigabyte);
    EXPECT_EQ(refusal(read), "expected a descr, got none");
    make("\x93NUMPY\2\0\xff\xff\xff\xff{}"sv, 8 * kGigabyte);
    EXPECT_EQ(refusal(read), "expected a header of at most 1048576 bytes, got 4294967295");
    make("\x93NUMPY\1\0\x3e\0{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  \n"sv,
         8 * kGigabyte);
    EXPECT_EQ(refusal(read), "expected 24 bytes for <f4 [2, 3], got 8589934520");
  }

  const auto model = [&] { read_safetensors(path_); };
  make("", 3 * kGigabyte);
  EXPECT_EQ(refusal(model), "expected a header that begins with '{', got \"\"");
  make("\xff\xff\xff\xff\0\0\0\0"sv, 3 * kGigabyte);
  EXPECT_EQ(refusal(model), "expected a header of at most 100000000 bytes, got 4294967295");
  make("\2\0\0\0\0\0\0\0{}"sv, 3 * kGigabyte);
  EXPECT_EQ(refusal(model), "expected 0 bytes of data, got 3221225462");
}

TEST_F(FileTest, TruncatesALogToWhatACheckpointKnows) {
  LineLog::truncate_to(path_, 0);
  EXPECT_EQ(content_of(path_), "");
  LineLog(path_).append("kept");
  LineLog(path_).append("dropped");
  EXPECT_EQ(error_of([&] { LineLog::truncate_to(path_, 14); }),
            "cannot truncate " + path_.string() + " to 14 bytes: it holds only 13");
  LineLog::truncate_to(path_, 5);
  EXPECT_EQ(content_of(path_), "kept\n");
  LineLog(path_).append("again");
  EXPECT_EQ(content_of(path_), "kept\nagain\n");
  for (const std::string call : {"open", "truncate", "fsync", "close"}) {
    FaultyDisk disk(first(call), failing(EIO));
    EXPECT_EQ(error_of([&] { LineLog::truncate_to(path_, 5); }),
              fmt::format("cannot {} {}: Input/output error", call, path_.string()));
  }
  EXPECT_EQ(error_of([&] { LineLog log(folder_); }),
            "cannot open " + folder_.string() + ": Is a directory");
}

TEST(InQuotes, KeepsAMessageOnOneShortLine) {
  EXPECT_EQ(in_quotes("plain name"), "\"plain name\"");
  EXPECT_EQ(in_quotes("a\n\"\\\x7f\xc3"), "\"a\\x0a\\x22\\x5c\\x7f\\xc3\"");
  EXPECT_EQ(in_quotes(std::string(40, 'x')), '"' + std::string(40, 'x') + '"');
  EXPECT_EQ(in_quotes(std::string(41, 'x')), '"' + std::string(40, 'x') + "\"...");
}

TEST(Shown, LeavesShortWordsAsTheyAre) {
  EXPECT_EQ(shown("blocks.0.conv.weight"), "blocks.0.conv.weight");
  EXPECT_EQ(shown(""), "\"\"");
  EXPECT_EQ(shown("two words"), "\"two words\"");
  EXPECT_EQ(shown("a\u202eb"), "\"a\\xe2\\x80\\xaeb\"");
  EXPECT_EQ(shown(std::string(41, 'x')), '"' + std::string(40, 'x') + "\"...");
}

}  // namespace
}  // namespace sidechannel
