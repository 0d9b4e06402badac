#include "engine/io/folder_lock.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <system_error>
#include <thread>

#include "engine/say.h"

namespace sidechannel {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLock = ".lock";
constexpr const char* kOwner = ".lock.owner";

bool is_missing_from_file_system(int code) {
  return code == ENOLCK || code == EOPNOTSUPP || code == ENOSYS || code == EINVAL ||
         code == EBADF || code == EPERM;
}

// The 22nd field of /proc/PID/stat: tells a process from a later one of the same number. Empty
// where there is no such process.
std::string start_of(const std::string& pid) {
  const std::string stat = text_at(fs::path("/proc") / pid / "stat");
  std::size_t at = stat.rfind(')');  // of its name, which may hold anything
  constexpr int kFieldsBetween = 20;
  for (int i = 0; i < kFieldsBetween && at != stat.npos; ++i) at = stat.find(' ', at + 1);
  return at == stat.npos ? "" : stat.substr(at + 1, stat.find(' ', at + 1) - at - 1);
}

// Who holds a lock: a line "HOST BOOT NAMESPACE PID START".
struct Owner {
  std::string host, boot, pids, pid, start;

  static Owner self() {
    char host[256] = {};
    ::gethostname(host, sizeof host - 1);
    std::string boot = text_at("/proc/sys/kernel/random/boot_id");
    while (boot.ends_with('\n')) boot.pop_back();
    std::error_code ignored;
    const std::string pid = std::to_string(::getpid());
    return {host, boot, fs::read_symlink("/proc/self/ns/pid", ignored), pid, start_of(pid)};
  }
  static Owner of(const std::string& line) {
    Owner owner;
    std::size_t at = 0;
    for (std::string* field : {&owner.host, &owner.boot, &owner.pids, &owner.pid, &owner.start}) {
      const std::size_t end = std::min(line.find(' ', at), line.size());
      *field = line.substr(at, end - at);
      at = std::min(end + 1, line.size());
    }
    return owner;
  }
  std::string line() const { return fmt::format("{} {} {} {} {}", host, boot, pids, pid, start); }

  // Whether that process is certainly gone. A host that was started anew has none of its processes.
  bool is_gone() const {
    const Owner here = self();
    if (boot.empty() || start.empty()) return false;
    if (boot == here.boot) return pids == here.pids && start_of(pid) != start;
    return host == here.host;
  }
};

// Clears away what a process that is gone has left. Two that do this at once: each moves the file
// aside before it looks again at whose it is.
void clear_away(const fs::path& owner, const std::string& line) {
  const fs::path aside = fs::path(owner) += fmt::format(".{}", ::getpid());
  std::error_code error;
  fs::rename(owner, aside, error);
  if (error) return;  // another one was first
  if (text_at(aside) != line) {
    // Another one was first and has taken the lock since: it stays theirs.
    ::link(aside.c_str(), owner.c_str());
  }
  remove_file(aside);
}

// Makes the file that stands for a lock; false while another process's stands there.
bool take_instead(const fs::path& owner) {
  const std::string held = text_at(owner);
  if (!held.empty() && Owner::of(held).is_gone()) clear_away(owner, held);
  try {
    OpenFile file(owner, O_WRONLY | O_CREAT | O_EXCL);
    const std::string line = Owner::self().line();
    file.write(std::as_bytes(std::span(line)));
    file.sync();
    file.close();
    return true;
  } catch (const FileError& error) {
    if (error.code() != EEXIST) throw;
    return false;
  }
}

bool is_held_instead(const fs::path& owner) {
  const std::string held = text_at(owner);
  return !held.empty() && !Owner::of(held).is_gone();
}

[[noreturn]] void refuse(const fs::path& folder) {
  const std::string held = text_at(folder / kOwner);
  if (!held.empty() && Owner::of(held).host != Owner::self().host) {
    const Owner owner = Owner::of(held);
    throw FolderInUse(fmt::format(
        "{}: process {} on {} is working in this folder; if it is gone, "
        "remove {}",
        folder.string(), in_quotes(owner.pid), in_quotes(owner.host), (folder / kOwner).string()));
  }
  throw FolderInUse(fmt::format("{}: another process is working in this folder", folder.string()));
}

}  // namespace

FolderLock::FolderLock(const fs::path& folder, std::chrono::milliseconds patience)
    : file_(folder / kLock, O_RDWR | O_CREAT) {
  static std::atomic<bool> said = false;
  using Clock = std::chrono::steady_clock;
  const fs::path owner = folder / kOwner;
  const Clock::time_point end = Clock::now() + patience;
  for (;;) {
    try {
      if (file_.try_lock() && !is_held_instead(owner)) return;
    } catch (const FileError& error) {
      if (!is_missing_from_file_system(error.code())) throw;
      if (take_instead(owner)) {
        owner_ = owner;
        if (!said.exchange(true)) {
          note(
              "{}: this file system has no locks ({}): {} stands for one, and what a killed "
              "process leaves of it only its own host clears away\n",
              folder.string(), std::generic_category().message(error.code()), kOwner);
        }
        return;
      }
    }
    if (Clock::now() >= end) refuse(folder);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

FolderLock::~FolderLock() {
  if (!owner_.empty() && text_at(owner_) == Owner::self().line()) remove_file(owner_);
}

bool FolderLock::is_held(const fs::path& folder) {
  try {
    if (!OpenFile(folder / kLock, O_RDONLY | O_NONBLOCK).try_lock(false)) return true;
  } catch (const FileError&) {
    // No lock file, none that we may read, or a file system without locks.
  }
  return is_held_instead(folder / kOwner);
}

}  // namespace sidechannel
