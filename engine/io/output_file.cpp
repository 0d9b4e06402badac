#include "engine/io/output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <random>
#include <string>
#include <system_error>

#include "engine/io/file.h"
#include "engine/say.h"

namespace sidechannel {
namespace {

namespace fs = std::filesystem;
using Bytes = std::span<const std::byte>;

[[noreturn]] void fail(const fs::path& name, int code) {
  throw FileError(code, fmt::format("cannot write {}: {}", name.string(),
                                    std::generic_category().message(code)));
}

// Whether a new file could not be put there, while the old one may still be written to.
bool keeps_new_files_out(int code) {
  return code == EACCES || code == EPERM || code == EROFS || code == EBUSY || code == EXDEV;
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : ".";
}

// N where `path` is one of this process's own descriptors: /dev/fd/N, /proc/self/fd/N. To open that
// name would be another file position, without O_APPEND, and not possible for a socket.
std::optional<int> descriptor_of(const fs::path& path) {
  std::error_code error;
  const std::string folder = fs::canonical(folder_of(path), error);
  const std::string own = fmt::format("/proc/{}/", getpid());
  if (error || !folder.starts_with(own) || !folder.ends_with("/fd")) return std::nullopt;
  const std::optional<std::int64_t> number = whole_number(path.filename().string());
  return number && *number == static_cast<int>(*number) ? std::optional<int>(*number)
                                                        : std::nullopt;
}

void write_descriptor(int descriptor, Bytes bytes) {
  const int copy = ::fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) throw FileError(errno, "");
  OpenFile file(copy);
  file.write(bytes);
  file.close();
}

// What `path` leads to when its last part is followed through symbolic links, or the link to one of
// this process's descriptors.
fs::path followed(fs::path path) {
  constexpr int kMostLinks = 40;  // as the system has it
  std::error_code error;
  for (int links = 0; !descriptor_of(path) && fs::is_symlink(path, error); ++links) {
    if (links == kMostLinks) throw FileError(ELOOP, "");
    const fs::path to = fs::read_symlink(path);
    path = to.is_absolute() ? to : folder_of(path) / to;
  }
  return path;
}

// A file with a name that nobody else has, in the folder of the one whose place it will take.
class NewFile {
 public:
  NewFile(const fs::path& target, mode_t mode)
      : file_(folder_of(target) / name_for(target), O_WRONLY | O_CREAT | O_EXCL, "open", mode) {}
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile() {
    if (!placed_) remove_file(file_.path());
  }

  int descriptor() const { return file_.descriptor(); }

  void place(const fs::path& target, Bytes bytes) {
    file_.write(bytes);
    file_.sync();
    file_.close();
    rename_file(file_.path(), target);
    placed_ = true;
    sync_folder_of(target);
  }

 private:
  static std::string name_for(const fs::path& target) {
    constexpr std::size_t kMost = 200;  // of the 255 bytes that a name may have
    std::random_device random;
    return fmt::format(".{}.{:08x}{:08x}.tmp", target.filename().string().substr(0, kMost),
                       random(), random());
  }

  WriteUnderWay counted_;
  OpenFile file_;
  bool placed_ = false;
};

// Attributes that a program may carry from file to file. Of the system's own, security labels but
// SELinux's are made anew for each file.
bool carried(std::string_view attribute) {
  return attribute == "security.selinux" ||
         (!attribute.starts_with("security.") && !attribute.starts_with("trusted."));
}

std::string attribute_of(int file, const char* name) {
  const ssize_t size = ::fgetxattr(file, name, nullptr, 0);
  std::string value(static_cast<std::size_t>(std::max<ssize_t>(size, 0)), '\0');
  const ssize_t got = ::fgetxattr(file, name, value.data(), value.size());
  value.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  return value;
}

// Gives `to` the owner, mode, access list and extended attributes of `from`; false where it cannot.
bool take_attributes(int from, const struct stat& old, int to) {
  struct stat now {};
  if (::fstat(to, &now) != 0) return false;
  if ((now.st_uid != old.st_uid || now.st_gid != old.st_gid) &&
      ::fchown(to, old.st_uid, old.st_gid) != 0) {
    return false;
  }
  // The folder may give its files a list that the old one does not have.
  ::fremovexattr(to, "system.posix_acl_access");
  std::string names(static_cast<std::size_t>(std::max<ssize_t>(::flistxattr(from, nullptr, 0), 0)),
                    '\0');
  const ssize_t size = ::flistxattr(from, names.data(), names.size());
  names.resize(static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  for (std::size_t at = 0; at < names.size();
       at += std::string_view(names.data() + at).size() + 1) {
    const char* const name = names.data() + at;
    if (!carried(name)) continue;
    const std::string value = attribute_of(from, name);
    if (value != attribute_of(to, name) &&
        ::fsetxattr(to, name, value.data(), value.size(), 0) != 0) {
      return false;
    }
  }
  constexpr mode_t kMode = 07777;
  return ::fchmod(to, old.st_mode & kMode) == 0 && ::fstat(to, &now) == 0 &&
         now.st_uid == old.st_uid && now.st_gid == old.st_gid && now.st_mode == old.st_mode;
}

// One after the other where several do. What there is room for is asked first, so that a full disk
// costs nothing.
void overwrite(OpenFile& file, const fs::path& name, Bytes bytes, std::string_view why) {
  try {
    while (!file.try_lock()) ::usleep(1000);
  } catch (const FileError&) {
    // A file system without locks.
  }
  const auto size = static_cast<off_t>(bytes.size());
  if (size > 0 && ::fallocate(file.descriptor(), FALLOC_FL_KEEP_SIZE, 0, size) != 0 &&
      (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
    fail(name, errno);
  }
  file.write(bytes);
  file.truncate(bytes.size());
  file.sync();
  file.close();
  note("{}: overwritten, not replaced in one step ({})\n", name.string(), why);
}

// Opens the file under a name, and asks thereby whether it may be written. Whether `target` is that
// file too: it is not while another writer replaces it, nor where the name is another process's
// descriptor.
bool open_both(std::optional<OpenFile>& file, struct stat& old, const fs::path& name,
               const fs::path& target) {
  constexpr int kTries = 100;
  for (int i = 0; i < kTries; ++i) {
    file.emplace(name, O_WRONLY, "write");
    struct stat there {};
    if (::fstat(file->descriptor(), &old) != 0) fail(name, errno);
    if (::lstat(target.c_str(), &there) == 0 && there.st_dev == old.st_dev &&
        there.st_ino == old.st_ino) {
      return true;
    }
  }
  return false;
}

void replace(const fs::path& name, const fs::path& target, Bytes bytes) {
  std::optional<OpenFile> file;
  struct stat old {};
  if (!open_both(file, old, name, target)) {
    return overwrite(*file, name, bytes, "it has no name of its own");
  }
  if (old.st_nlink > 1) {
    return overwrite(*file, name, bytes, fmt::format("it has {} names", old.st_nlink));
  }
  std::string why = "a new file could not have its owner and attributes";
  try {
    constexpr mode_t kOwnerOnly = 0600;  // until it has the old one's mode
    NewFile fresh(target, kOwnerOnly);
    if (take_attributes(file->descriptor(), old, fresh.descriptor())) {
      return fresh.place(target, bytes);
    }
  } catch (const FileError& error) {
    if (!keeps_new_files_out(error.code())) throw;
    why = fmt::format("no new file can take its place: {}",
                      std::generic_category().message(error.code()));
  }
  overwrite(*file, name, bytes, why);
}

void write_to(const fs::path& name, Bytes bytes) {
  if (name == "-") return write_descriptor(STDOUT_FILENO, bytes);
  const fs::path target = followed(name);
  if (const std::optional<int> descriptor = descriptor_of(target)) {
    return write_descriptor(*descriptor, bytes);
  }
  struct stat there {};
  if (::stat(name.c_str(), &there) != 0) {
    if (errno != ENOENT) fail(name, errno);
    if (!target.has_filename()) fail(name, EISDIR);
    create_folder(folder_of(target));
    constexpr mode_t kAsUsual = 0666;
    NewFile(target, kAsUsual).place(target, bytes);
    return;
  }
  if (S_ISDIR(there.st_mode)) fail(name, EISDIR);
  if (S_ISREG(there.st_mode)) return replace(name, target, bytes);
  OpenFile file(name, O_WRONLY | O_NOCTTY, "write");
  file.write(bytes);
  file.close();
}

}  // namespace

void write_output(const fs::path& name, Bytes bytes) {
  try {
    write_to(name, bytes);
  } catch (const FileError& error) {  // about the user's name, whatever ours are on the way
    fail(name == "-" ? "standard output" : name, error.code());
  } catch (const fs::filesystem_error& error) {
    fail(name, error.code().value());
  }
}

}  // namespace sidechannel
