#pragma once

#include <chrono>
#include <filesystem>

#include "engine/io/file.h"

namespace sidechannel {

// Another process works in the folder.
class FolderInUse : public Error {
 public:
  using Error::Error;
};

// One process works in a folder, and holds this meanwhile: the lock of the file ".lock" (flock,
// which NFS carries between hosts, and which ends with the process whatever ends it).
//
// Where a file system has no locks, a file ".lock.owner" stands for it, made with O_EXCL, which
// says whose it is. What a process on this host has left there when it was killed is taken over; of
// another host nobody can tell, and FolderInUse says which file to remove. stderr says once that it
// is so.
class FolderLock {
 public:
  // FolderInUse where another process still has it after `patience`. Looking at a lock (is_held)
  // takes it for a moment, so that a little patience is always wanted.
  explicit FolderLock(const std::filesystem::path& folder,
                      std::chrono::milliseconds patience = std::chrono::milliseconds(200));
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;
  ~FolderLock();

  // Whether a process works in the folder. Needs no more than to read there; what cannot be read
  // counts as not held.
  static bool is_held(const std::filesystem::path& folder);

 private:
  OpenFile file_;
  std::filesystem::path owner_;  // the file that stands for the lock, where one does
};

}  // namespace sidechannel
