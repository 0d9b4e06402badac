#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/dtype.h"
#include "engine/error.h"
#include "engine/io/host_array.h"
#include "engine/shape.h"

namespace sidechannel {

// Whole files, durable replacement of files, and an append-only log, in folders that are ours (what
// a user names by itself: engine/io/output_file.h). Every failure throws FileError with the call,
// the path and the system's reason: "cannot fsync runs/a/.model.tmp: No space left on device".

class FileError : public Error {
 public:
  FileError(int code, const std::string& message) : Error(message), code_(code) {}
  int code() const { return code_; }  // errno

 private:
  int code_;
};

// No text of ours is longer.
inline constexpr std::uint64_t kMostText = std::uint64_t{64} << 20;

// The content of a regular file of at most `most` bytes, which is asked before any of it is read.
// Throws Error when it is missing, larger, a folder, a device, or unreadable.
std::vector<std::byte> read_file(const std::filesystem::path& path, std::uint64_t most = kMostText);

// The text of a file that may say something, as those of /proc do, whose sizes are 0. Empty where
// there is no regular file, or none that can be read.
std::string text_at(const std::filesystem::path& path);

// The same bytes as text.
inline std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

enum class KeepPrevious : bool { kNo, kYes };

// Where write_file_durably keeps the file that it replaces: "NAME.previous" beside it.
std::filesystem::path previous_of(const std::filesystem::path& path);

// Replaces `path` by `bytes` so that at any moment, through a kill or a power cut, the old or the
// new content stands there whole. With KeepPrevious::kYes the old file stays as previous_of(path).
//
// Throws Error. The old file is then untouched, save when the very last step failed (fsync of the
// folder): the new content is then in place but may not outlive a power cut. previous_of(path) may
// by then be a second name of the old file, or its copy where the file system has no hard links.
// One writer per file: the temporary ".NAME.tmp" has a fixed name, so that the next write clears up
// after a killed one.
void write_file_durably(const std::filesystem::path& path, std::span<const std::byte> bytes,
                        KeepPrevious keep = KeepPrevious::kNo);

// Removes what killed writers have left in a folder that this process has for itself.
void clear_up_after_writers(const std::filesystem::path& folder);

void rename_file(const std::filesystem::path& from, const std::filesystem::path& to);
// Whether there was one, and is none now.
bool remove_file(const std::filesystem::path& path);
// Makes the names in the folder of `path` durable. Where the file system cannot do that, says so
// once, on stderr.
void sync_folder_of(const std::filesystem::path& path);

// Counts those that live.
template <std::atomic<int>& kCount>
class Counted {
 public:
  Counted() { ++kCount; }
  ~Counted() { --kCount; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
};

// How many new files are being written right now, in all threads: what a program that is told to
// end waits for, so that it leaves no temporary one. May be asked in a signal's handler.
inline std::atomic<int> file_writes_under_way = 0;
using WriteUnderWay = Counted<file_writes_under_way>;

// Makes a folder, and those that it lies in, where they are not there yet.
void create_folder(const std::filesystem::path& path);

// An open file. The destructor closes it in silence; close() reports what only a close can tell
// (a full quota on a network filesystem).
class OpenFile {
 public:
  // `flags` as for open(2). A file that is created gets `mode` less the umask. An Error says
  // "cannot ACTION PATH: ...".
  OpenFile(std::filesystem::path path, int flags, std::string_view action = "open",
           mode_t mode = 0666);
  // Takes over a descriptor, which has no path.
  explicit OpenFile(int descriptor) : fd_(descriptor) {}
  OpenFile(OpenFile&& other) noexcept
      : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  OpenFile& operator=(OpenFile&&) = delete;
  ~OpenFile();

  // In bytes; refuses folders and devices.
  std::uint64_t size() const;
  // Fills `bytes`; a file that ends early is an Error.
  void read(std::span<std::byte> bytes) const;
  void write(std::span<const std::byte> bytes) const;
  void truncate(std::uint64_t bytes) const;
  void sync() const;
  // Takes the file's lock (flock(2)) until it is closed, an exclusive one or one that others may
  // share; false when another process has it.
  bool try_lock(bool exclusive = true) const;
  void close();

  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return fd_; }

 private:
  std::filesystem::path path_;
  int fd_ = -1;
};

// A text file that grows by whole lines, for metrics.jsonl. One writer per file.
class LineLog {
 public:
  // Opens for appending; creates the file if need be.
  explicit LineLog(const std::filesystem::path& path);

  // Adds `line` and a newline with one write. When that fails, what was written of it is cut off
  // again; only a kill can leave a torn last line, which truncate_to removes on resume. Throws
  // Error on a line with a newline inside.
  void append(std::string_view line);

  // Makes the lines durable. Call it before a checkpoint records size().
  void sync() const { file_.sync(); }

  // In bytes.
  std::uint64_t size() const { return size_; }

  // Drops what was logged after the checkpoint that a run resumes from. A missing file counts as an
  // empty one; a file shorter than `bytes` is an Error, since lines were lost.
  static void truncate_to(const std::filesystem::path& path, std::uint64_t bytes);

 private:
  OpenFile file_;
  std::uint64_t size_;
};

// What the readers of file formats share. A file is believed in nothing before it is checked.

// `text` from a file as one line of a message: in quotes, printable ASCII as it is, other bytes as
// \xNN, at most 40 of them.
std::string in_quotes(std::string_view text);

// A name from outside, for a message: as it is where that is one short word of ASCII, else in
// quotes.
std::string shown(std::string_view name);

// A whole number as flags, lists and names of devices hold it: decimal, and nothing else in the
// text. Leading zeros, a plus, blanks, 0x and what does not fit the type make none.
std::optional<std::int64_t> whole_number(std::string_view text);
// The same of any number; inf and nan are none.
std::optional<double> real_number(std::string_view text);

// "one, two or three".
std::string listed(const std::vector<const char*>& names);

// Runs f; an Error leaves with "WHERE: " before its message. (Not one about a file: it names its
// own.)
template <class F>
auto in_context(std::string_view where, F&& f) try {
  return f();
} catch (const FileError&) {
  throw;
} catch (const Error& error) {
  throw Error(fmt::format("{}: {}", where, error.what()));
}

// The array of these bytes, exactly as many as it needs. Throws Error on a bool other than 0 and 1,
// which C++ may not even look at.
HostArray checked_array(DType type, Shape shape, std::vector<std::byte> bytes);

// Where the reader of a format takes bytes from, one after the other: a file, or memory. So it can
// refuse a header, and a size that the header does not account for, before it has read the rest.
class ByteSource {
 public:
  explicit ByteSource(const std::filesystem::path& path);
  explicit ByteSource(std::span<const std::byte> bytes) : bytes_(bytes), left_(bytes.size()) {}

  std::uint64_t left() const { return left_; }
  // The next `count` bytes, at most left().
  std::vector<std::byte> take(std::uint64_t count);

 private:
  std::optional<OpenFile> file_;
  std::span<const std::byte> bytes_;  // where there is no file
  std::uint64_t left_;
};

// The system calls through which a disk can fail. Tests put faults in their place.
struct FileSystemCalls {
  int (*open)(const char* path, int flags, mode_t mode);
  ssize_t (*read)(int fd, void* buffer, std::size_t size);
  ssize_t (*write)(int fd, const void* buffer, std::size_t size);
  int (*ftruncate)(int fd, off_t size);
  int (*fsync)(int fd);
  int (*close)(int fd);
  int (*link)(const char* from, const char* to);
  int (*rename)(const char* from, const char* to);
  int (*unlink)(const char* path);
  int (*flock)(int fd, int operation);
};

// For tests only, and while nothing else touches files: returns the calls that were in place.
FileSystemCalls replace_file_system_calls(const FileSystemCalls& calls);

}  // namespace sidechannel
