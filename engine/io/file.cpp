#include "engine/io/file.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <fstream>
#include <sstream>
#include <system_error>

#include "engine/say.h"

namespace sidechannel {
namespace {

namespace fs = std::filesystem;

constinit FileSystemCalls calls = {
    .open = [](const char* path, int flags, mode_t mode) { return ::open(path, flags, mode); },
    .read = ::read,
    .write = ::write,
    .ftruncate = ::ftruncate,
    .fsync = ::fsync,
    .close = ::close,
    .link = ::link,
    .rename = ::rename,
    .unlink = ::unlink,
    .flock = ::flock,
};

[[noreturn]] void fail(std::string_view action, const fs::path& path, const fs::path& to = {}) {
  const int code = errno;
  const std::string target = to.empty() ? "" : fmt::format(" to {}", to.string());
  throw FileError(code, fmt::format("cannot {} {}{}: {}", action, path.string(), target,
                                    std::generic_category().message(code)));
}

// Says what is weaker on a file system that lacks something: once, not for every file.
void say_once(std::atomic<bool>& said, std::string_view lack, const fs::path& path,
              std::string_view weaker) {
  const std::string reason = std::generic_category().message(errno);
  if (said.exchange(true)) return;
  note("{}: this file system {} ({}): {}\n", path.string(), lack, reason, weaker);
}

// What fsync says of a thing that cannot be synced at all, as folders on some network filesystems.
bool cannot_be_synced(int code) {
  return code == EINVAL || code == EOPNOTSUPP || code == ENOSYS;
}

// A signal (SIGTERM asks for a checkpoint) may interrupt a call that has nothing wrong with it.
template <class Call>
auto uninterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

[[noreturn]] void refuse_device(const fs::path& path) {
  throw FileError(ENXIO, path.string() + " is a device or a pipe, expected a file");
}

// A regular file. Without O_NONBLOCK, opening a pipe would wait for its other end; with it, one
// that nobody reads, and a socket, cannot be opened at all.
OpenFile open_regular(const fs::path& path, int flags, std::string_view action) {
  try {
    OpenFile file(path, flags | O_NONBLOCK, action);
    file.size();  // refuses what is no file
    return file;
  } catch (const FileError& error) {
    if (error.code() == ENXIO) refuse_device(path);
    throw;
  }
}

fs::path temporary_for(const fs::path& path) {
  return path.parent_path() / fmt::format(".{}.tmp", path.filename().string());
}

// A name that is free to create, and free again at the end unless a rename has moved it on.
class TemporaryName {
 public:
  explicit TemporaryName(fs::path path) : path_(std::move(path)) { calls.unlink(path_.c_str()); }
  TemporaryName(const TemporaryName&) = delete;
  TemporaryName& operator=(const TemporaryName&) = delete;
  ~TemporaryName() { calls.unlink(path_.c_str()); }

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void keep_copy(const fs::path& path, const fs::path& previous) {
  std::vector<std::byte> bytes;
  try {
    bytes = read_file(path, UINT64_MAX);
  } catch (const FileError& error) {
    if (error.code() == ENOENT) return;  // the first write: nothing to keep
    throw;
  }
  write_file_durably(previous, bytes);
}

// Gives the current file its second name by link and rename, so that it never loses its first. When
// an earlier write got no further than this, both names are one file already: rename then does
// nothing and leaves the temporary name to its destructor. Without hard links a copy does as well.
void keep_as_previous(const fs::path& path) {
  static std::atomic<bool> said = false;
  const fs::path previous = previous_of(path);
  const TemporaryName link(temporary_for(previous));
  if (calls.link(path.c_str(), link.path().c_str()) == 0) return rename_file(link.path(), previous);
  switch (errno) {
    case ENOENT:  // the first write: nothing to keep
      return;
    case EPERM:
    case EOPNOTSUPP:
    case ENOSYS:
    case EMLINK:
    case EXDEV:
      say_once(said, "makes no hard links", path,
               "the state before the newest is kept as a copy, which takes longer");
      return keep_copy(path, previous);
    default:
      fail("link", path, link.path());
  }
}

// Leading zeros would make it octal to some.
bool has_leading_zero(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  return text.size() > 1 && text[0] == '0' && text[1] >= '0' && text[1] <= '9';
}

template <class T>
std::optional<T> number(std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  if (std::is_integral_v<T> && text == "-0") return std::nullopt;
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || has_leading_zero(text)) return std::nullopt;
  return value;
}

}  // namespace

void rename_file(const fs::path& from, const fs::path& to) {
  if (calls.rename(from.c_str(), to.c_str()) != 0) fail("rename", from, to);
}

bool remove_file(const fs::path& path) {
  return calls.unlink(path.c_str()) == 0;
}

void sync_folder_of(const fs::path& path) {
  static std::atomic<bool> said = false;
  const fs::path parent = path.parent_path();
  try {
    OpenFile folder(parent.empty() ? "." : parent, O_RDONLY | O_DIRECTORY);
    if (uninterrupted([&] { return calls.fsync(folder.descriptor()); }) != 0) {
      fail("fsync", folder.path());
    }
    folder.close();
  } catch (const FileError& error) {
    // EACCES: a folder that may be written and searched, not read.
    const int code = error.code();
    if (!cannot_be_synced(code) && code != EPERM && code != EBADF && code != EACCES) throw;
    errno = code;
    say_once(said, "does not sync folders", path,
             "after a power cut the file before the newest may stand there");
  }
}

OpenFile::OpenFile(fs::path path, int flags, std::string_view action, mode_t mode)
    : path_(std::move(path)) {
  fd_ = uninterrupted([&] { return calls.open(path_.c_str(), flags | O_CLOEXEC, mode); });
  if (fd_ < 0) fail(action, path_);
}

OpenFile::~OpenFile() {
  if (fd_ >= 0) calls.close(fd_);
}

std::uint64_t OpenFile::size() const {
  struct stat status {};
  if (::fstat(fd_, &status) != 0) fail("stat", path_);
  SC_CHECK(!S_ISDIR(status.st_mode), "{} is a folder, expected a file", path_.string());
  if (!S_ISREG(status.st_mode)) refuse_device(path_);
  return static_cast<std::uint64_t>(status.st_size);
}

void OpenFile::read(std::span<std::byte> bytes) const {
  for (auto rest = bytes; !rest.empty();) {
    const ssize_t n = uninterrupted([&] { return calls.read(fd_, rest.data(), rest.size()); });
    if (n < 0) fail("read", path_);
    if (n == 0) {
      throw FileError(ENODATA,
                      fmt::format("cannot read {}: expected {} bytes, got {}", path_.string(),
                                  bytes.size(), bytes.size() - rest.size()));
    }
    rest = rest.subspan(static_cast<std::size_t>(n));
  }
}

void OpenFile::write(std::span<const std::byte> bytes) const {
  for (auto rest = bytes; !rest.empty();) {
    const ssize_t n = uninterrupted([&] { return calls.write(fd_, rest.data(), rest.size()); });
    if (n < 0 && errno == EAGAIN) {  // a full pipe that its owner set to O_NONBLOCK
      pollfd room{.fd = fd_, .events = POLLOUT, .revents = 0};
      ::poll(&room, 1, -1);
      continue;
    }
    if (n < 0) fail("write", path_);
    SC_CHECK(n > 0, "cannot write {}: the system took {} of {} bytes", path_.string(),
             bytes.size() - rest.size(), bytes.size());
    rest = rest.subspan(static_cast<std::size_t>(n));
  }
}

void OpenFile::truncate(std::uint64_t bytes) const {
  const auto size = static_cast<off_t>(bytes);
  if (uninterrupted([&] { return calls.ftruncate(fd_, size); }) != 0) fail("truncate", path_);
}

void OpenFile::sync() const {
  const int result = uninterrupted([&] { return calls.fsync(fd_); });
  if (result != 0 && !cannot_be_synced(errno)) fail("fsync", path_);
}

bool OpenFile::try_lock(bool exclusive) const {
  const int operation = (exclusive ? LOCK_EX : LOCK_SH) | LOCK_NB;
  if (uninterrupted([&] { return calls.flock(fd_, operation); }) == 0) return true;
  if (errno != EWOULDBLOCK) fail("lock", path_);
  return false;
}

void OpenFile::close() {
  // Never again after EINTR: Linux has freed the descriptor by then, and another thread may own it.
  if (calls.close(std::exchange(fd_, -1)) != 0 && errno != EINTR) fail("close", path_);
}

std::vector<std::byte> read_file(const fs::path& path, std::uint64_t most) {
  ByteSource file(path);
  SC_CHECK(file.left() <= most, "{}: expected at most {} bytes, got {}", path.string(), most,
           file.left());
  return file.take(file.left());
}

std::string text_at(const fs::path& path) {
  std::error_code error;
  if (!fs::is_regular_file(path, error)) return {};  // a pipe would wait for its writer
  // Through <<, since iterators throw where a process ends while its /proc is read.
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

fs::path previous_of(const fs::path& path) {
  return fs::path(path) += ".previous";
}

void create_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  SC_CHECK(!error, "cannot create folder {}: {}", path.string(), error.message());
}

void write_file_durably(const fs::path& path, std::span<const std::byte> bytes, KeepPrevious keep) {
  const WriteUnderWay counted;
  const TemporaryName fresh(temporary_for(path));
  OpenFile file(fresh.path(), O_WRONLY | O_CREAT | O_EXCL);
  file.write(bytes);
  file.sync();
  file.close();
  if (keep == KeepPrevious::kYes) keep_as_previous(path);
  rename_file(fresh.path(), path);
  sync_folder_of(path);
}

void clear_up_after_writers(const fs::path& folder) {
  std::error_code error;  // of a folder that cannot be read: the next write says so
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename();
    if (name.starts_with('.') && name.ends_with(".tmp")) remove_file(entry.path());
  }
}

LineLog::LineLog(const fs::path& path)
    : file_(open_regular(path, O_WRONLY | O_CREAT | O_APPEND, "open")), size_(file_.size()) {}

void LineLog::append(std::string_view line) {
  SC_CHECK(line.find('\n') == line.npos, "cannot log a line with a newline inside: {}",
           in_quotes(line));
  const std::string text = fmt::format("{}\n", line);
  try {
    file_.write(std::as_bytes(std::span(text)));
  } catch (const Error&) {
    try {
      file_.truncate(size_);
    } catch (const Error&) {
      // The first failure is the one to report.
    }
    throw;
  }
  size_ += text.size();
}

void LineLog::truncate_to(const fs::path& path, std::uint64_t bytes) {
  OpenFile file = open_regular(path, O_WRONLY | O_CREAT, "open");
  const std::uint64_t size = file.size();
  SC_CHECK(size >= bytes, "cannot truncate {} to {} bytes: it holds only {}", path.string(), bytes,
           size);
  file.truncate(bytes);
  file.sync();
  file.close();
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kMost = 40;
  std::string out = "\"";
  for (const char c : text.substr(0, kMost)) {
    const bool plain = c >= ' ' && c <= '~' && c != '"' && c != '\\';
    out += plain ? std::string(1, c) : fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return out + (text.size() > kMost ? "\"..." : "\"");
}

std::string shown(std::string_view name) {
  constexpr std::size_t kShort = 40;
  const bool plain = !name.empty() && name.size() <= kShort &&
                     std::ranges::all_of(name, [](char c) { return c > ' ' && c < 127; });
  return plain ? std::string(name) : in_quotes(name);
}

std::optional<std::int64_t> whole_number(std::string_view text) {
  return number<std::int64_t>(text);
}

std::optional<double> real_number(std::string_view text) {
  const std::optional<double> value = number<double>(text);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

std::string listed(const std::vector<const char*>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size(); ++i) {
    text += i == 0 ? "" : i + 1 < names.size() ? ", " : " or ";
    text += names[i];
  }
  return text;
}

HostArray checked_array(DType type, Shape shape, std::vector<std::byte> bytes) {
  const std::uint64_t needed = static_cast<std::uint64_t>(shape.size()) * size_of(type);
  SC_CHECK(bytes.size() == needed, "expected {} bytes for {} {}, got {}", needed, name_of(type),
           shape.str(), bytes.size());
  if (type == DType::kBool) {
    const auto bad = std::ranges::find_if(bytes, [](std::byte b) { return b > std::byte{1}; });
    SC_CHECK(bad == bytes.end(), "expected a bool of 0 or 1 at element {}, got {}",
             bad - bytes.begin(), std::to_integer<int>(*bad));
  }
  HostArray array;
  array.dtype = type;
  array.shape = shape;
  array.bytes = std::move(bytes);
  return array;
}

ByteSource::ByteSource(const fs::path& path)
    : file_(open_regular(path, O_RDONLY, "read")), left_(file_->size()) {}

std::vector<std::byte> ByteSource::take(std::uint64_t count) {
  SC_CHECK(count <= left_, "expected {} bytes, got only {}", count, left_);
  std::vector<std::byte> bytes;
  if (file_) {
    bytes.resize(count);
    file_->read(bytes);
  } else {
    bytes.assign(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(count));
    bytes_ = bytes_.subspan(count);
  }
  left_ -= count;
  return bytes;
}

FileSystemCalls replace_file_system_calls(const FileSystemCalls& replacement) {
  return std::exchange(calls, replacement);
}

}  // namespace sidechannel
