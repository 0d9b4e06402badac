#include "engine/io/output_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "engine/io/file.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel {
namespace {

namespace fs = std::filesystem;
using harness::content_of;
using harness::error_of;

void write(const fs::path& path, std::string_view text) {
  write_output(path, std::as_bytes(std::span(text)));
}

class OutputFile : public testing::Test {
 protected:
  fs::path at(const std::string& name) const { return folder_.path() / name; }

  std::set<std::string> names() const { return harness::names_in(folder_.path()); }

  static mode_t mode_of(const fs::path& path) {
    struct stat status {};
    EXPECT_EQ(::stat(path.c_str(), &status), 0);
    return status.st_mode & 07777;
  }

  // What stderr is told of a write.
  static std::string notes_of(const fs::path& path, std::string_view text) {
    testing::internal::CaptureStderr();
    write(path, text);
    return testing::internal::GetCapturedStderr();
  }

  // Does something as an ordinary user, if we are root; false where it throws.
  template <class F>
  static bool as_nobody(const F& f) {
    const pid_t child = ::fork();
    if (child == 0) {
      constexpr int kNobody = 65534;
      if (::geteuid() == 0 && (::setgid(kNobody) != 0 || ::setuid(kNobody) != 0)) ::_exit(2);
      try {
        f();
      } catch (const std::exception&) {
        ::_exit(1);
      }
      ::_exit(0);
    }
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_NE(status, 2 << 8);
    return status == 0;
  }

  harness::TemporaryFolder folder_;
};

TEST_F(OutputFile, MakesAFileAsTheUmaskSaysAndTheFoldersOnTheWay) {
  write(at("a/b/y.npy"), "new");
  EXPECT_EQ(content_of(at("a/b/y.npy")), "new");
  const mode_t mask = ::umask(0);
  ::umask(mask);
  EXPECT_EQ(mode_of(at("a/b/y.npy")), 0666 & ~mask);
}

TEST_F(OutputFile, ReplacesAFileInOneStepWithItsModeAndAttributes) {
  for (const mode_t mode : {0600, 0640, 0444, 0755}) {
    if (mode == 0444 && ::geteuid() != 0) continue;
    const fs::path path = at(fmt::format("{:o}", mode));
    write(path, "old");
    ASSERT_EQ(::chmod(path.c_str(), mode), 0);
    const bool has_attributes = ::setxattr(path.c_str(), "user.kept", "yes", 3, 0) == 0;
    // Whoever has the old file open keeps all of it.
    const std::ifstream open_before(path, std::ios::binary);
    EXPECT_EQ(notes_of(path, "the new content"), "");
    EXPECT_EQ(content_of(path), "the new content");
    EXPECT_EQ(std::string(std::istreambuf_iterator<char>(open_before.rdbuf()), {}), "old");
    EXPECT_EQ(mode_of(path), mode);
    char value[4] = {};
    if (has_attributes) {
      EXPECT_EQ(::getxattr(path.c_str(), "user.kept", value, 3), 3);
    }
  }
}

TEST_F(OutputFile, KeepsTheOwnerAsRoot) {
  if (::geteuid() != 0) GTEST_SKIP() << "not root, so that no file can be given away";
  write(at("y"), "old");
  ASSERT_EQ(::chown(at("y").c_str(), 65534, 65533), 0);
  EXPECT_EQ(notes_of(at("y"), "new"), "");
  struct stat status {};
  ASSERT_EQ(::stat(at("y").c_str(), &status), 0);
  EXPECT_EQ(status.st_uid, 65534u);
  EXPECT_EQ(status.st_gid, 65533u);
}

TEST_F(OutputFile, FollowsSymbolicLinks) {
  write(at("real"), "old");
  fs::create_directory(at("folder"));
  fs::create_symlink("../real", at("folder/inner"));
  fs::create_symlink("folder/inner", at("outer"));
  write(at("outer"), "new");
  EXPECT_EQ(content_of(at("real")), "new");
  EXPECT_TRUE(fs::is_symlink(at("outer")));
  EXPECT_TRUE(fs::is_symlink(at("folder/inner")));

  fs::create_symlink("folder/later", at("dangling"));
  write(at("dangling"), "made");
  EXPECT_EQ(content_of(at("folder/later")), "made");
  EXPECT_TRUE(fs::is_symlink(at("dangling")));

  fs::create_symlink("circle", at("circle"));
  EXPECT_EQ(
      error_of([&] { write(at("circle"), "x"); }),
      fmt::format("cannot write {}: Too many levels of symbolic links", at("circle").string()));
}

TEST_F(OutputFile, LeavesAUsersFilesAloneAndNoneOfItsOwn) {
  write(at("y"), "old");
  for (const char* other : {"y.tmp", "y.previous", ".y.tmp"}) write(at(other), "a user's");
  const std::set<std::string> before = names();
  write(at("y"), "new");
  EXPECT_EQ(names(), before);
  for (const char* other : {"y.tmp", "y.previous", ".y.tmp"}) {
    EXPECT_EQ(content_of(at(other)), "a user's");
  }
  const std::string longest(255, 'n');
  write(at(longest), "1");
  write(at(longest), "2");
  EXPECT_EQ(content_of(at(longest)), "2");
}

TEST_F(OutputFile, WritersOfOneNameAtOnceAllSucceedAndOneOfThemWins) {
  constexpr int kWriters = 8;
  for (const bool linked : {false, true}) {  // replaced, or overwritten
    const fs::path path = at(linked ? "linked" : "y");
    if (linked) {
      write(path, "old");
      fs::create_hard_link(path, at("other name"));
    }
    testing::internal::CaptureStderr();
    std::vector<std::thread> writers;
    for (int i = 0; i < kWriters; ++i) {
      writers.emplace_back([&path, i] {
        for (int round = 0; round < 20; ++round) {
          write(path, std::string(static_cast<std::size_t>(10000 + 1000 * i),
                                  static_cast<char>('a' + i)));
        }
      });
    }
    for (std::thread& writer : writers) writer.join();
    testing::internal::GetCapturedStderr();
    const std::string content = content_of(path);
    EXPECT_EQ(content,
              std::string(static_cast<std::size_t>(10000 + 1000 * (content[0] - 'a')), content[0]));
  }
  EXPECT_EQ(names(), (std::set<std::string>{"y", "linked", "other name"}));
}

TEST_F(OutputFile, OverwritesAFileWithOtherNamesAndSaysSo) {
  write(at("y"), "the old and longer content");
  fs::create_hard_link(at("y"), at("other"));
  EXPECT_EQ(notes_of(at("y"), "new"),
            fmt::format("{}: overwritten, not replaced in one step (it has 2 names)\n",
                        at("y").string()));
  EXPECT_EQ(content_of(at("other")), "new");
  EXPECT_EQ(fs::hard_link_count(at("y")), 2u);
}

TEST_F(OutputFile, OverwritesInAFolderThatMayNotBeWritten) {
  fs::create_directory(at("closed"));
  write(at("closed/y"), "the old and longer content");
  fs::permissions(folder_.path(), fs::perms::all);
  fs::permissions(at("closed/y"), fs::perms(0666));
  fs::permissions(at("closed"), fs::perms(0555));
  EXPECT_TRUE(as_nobody([&] {
    const std::string note = notes_of(at("closed/y"), "new");
    SC_CHECK(note.ends_with("(no new file can take its place: Permission denied)\n"), "{}", note);
  }));
  EXPECT_EQ(content_of(at("closed/y")), "new");
  EXPECT_FALSE(as_nobody([&] { write(at("closed/another"), "new"); }));
  fs::permissions(at("closed"), fs::perms::owner_all);
}

TEST_F(OutputFile, DoesNotReplaceWhatMayNotBeWritten) {
  write(at("y"), "old");
  fs::permissions(folder_.path(), fs::perms::all);
  fs::permissions(at("y"), fs::perms(0444));
  EXPECT_TRUE(as_nobody([&] {
    const std::string error = error_of([&] { write(at("y"), "new"); });
    SC_CHECK(error == fmt::format("cannot write {}: Permission denied", at("y").string()), "{}",
             error);
  }));
  EXPECT_EQ(content_of(at("y")), "old");
  EXPECT_EQ(error_of([&] { write(folder_.path(), "x"); }),
            fmt::format("cannot write {}: Is a directory", folder_.path().string()));
  EXPECT_EQ(error_of([&] { write(at("y/z"), "x"); }),
            fmt::format("cannot write {}: Not a directory", at("y/z").string()));
}

TEST_F(OutputFile, WritesIntoDevicesPipesAndDescriptorsWhereTheyStand) {
  write("/dev/null", "x");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_EQ(error_of([] { write("/dev/full", "x"); }),
            "cannot write /dev/full: No space left on device");

  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  std::string read_back;
  std::thread reader([&] { read_back = content_of(at("pipe")); });
  const std::string large(300000, 'x');  // more than a pipe holds
  write(at("pipe"), large);
  reader.join();
  EXPECT_EQ(read_back, large);
  EXPECT_TRUE(fs::is_fifo(at("pipe")));

  // As the shell's >> leaves it: what is there stays.
  write(at("log"), "before,");
  const int log = ::open(at("log").c_str(), O_WRONLY | O_APPEND);
  fs::create_symlink(fmt::format("/dev/fd/{}", log), at("link"));
  write(fmt::format("/proc/self/fd/{}", log), "one,");
  write(fmt::format("/dev/fd/{}", log), "two,");
  write(at("link"), "three");
  EXPECT_EQ(content_of(at("log")), "before,one,two,three");
  ::close(log);
  EXPECT_EQ(error_of([&] { write(fmt::format("/dev/fd/{}", log), "x"); }),
            fmt::format("cannot write /dev/fd/{}: Bad file descriptor", log));

  int sockets[2] = {};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, sockets), 0);
  write(fmt::format("/dev/fd/{}", sockets[0]), "hello");
  char got[6] = {};
  EXPECT_EQ(::read(sockets[1], got, sizeof got), 5);
  EXPECT_EQ(std::string(got), "hello");
  for (const int socket : sockets) ::close(socket);
}

}  // namespace
}  // namespace sidechannel
