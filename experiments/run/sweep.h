#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "engine/io/folder_lock.h"
#include "engine/io/json.h"

namespace sidechannel::experiments {

// A sweep: many runs that do not depend on each other, its cells. Each is an ordinary run folder in
// the sweep's, claimed by the lock that a process holds on a run folder it works in. So any number
// of processes, on any hosts that share the folder, may work on a sweep at once, be killed and come
// back; a cell that has its results is finished and never touched again.

enum class CellState {
  kWaiting,     // nothing there yet
  kRunning,     // a process works on it
  kUnfinished,  // begun, and left by a process that was stopped or killed
  kFailed,      // given up with an error, which is kept beside it; to be tried again
  kFinished,
};

struct Sweep {
  std::filesystem::path path;
  const char* program;           // whose command `run --cell` makes a cell
  std::filesystem::path cells;   // where their folders lie,
  std::vector<std::string> ids;  // what they are called: an id never changes its meaning
  // What a cell's config.json must agree with for its results to count, and whether they are there.
  std::function<Json(std::size_t cell)> settings;
  const char* results;  // the file that they are in
  std::function<bool(std::size_t cell)> has_results;

  std::size_t size() const { return ids.size(); }
  std::filesystem::path folder(std::size_t cell) const { return cells / ids[cell]; }
  // A cell by its number or its id; UsageError, which says where ids stand, for anything else.
  std::size_t find(const std::string& name, const char* where) const;

  CellState state(std::size_t cell) const;
  bool finished(std::size_t cell) const;

  // One line that says why a cell was given up; empty where it was not.
  std::string failure(std::size_t cell) const;
  void set_failure(std::size_t cell, const std::string& why) const;
  void clear_failure(std::size_t cell) const;
};

// To be held while a file of the sweep itself is written. Waits for others, but not for ever.
FolderLock locked(const std::filesystem::path& sweep);

// "0-3,7": the cells of a list in the form that Slurm's --array takes. Empty for none.
std::string ranges(const std::vector<std::size_t>& cells);

}  // namespace sidechannel::experiments
