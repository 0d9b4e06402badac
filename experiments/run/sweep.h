#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "engine/io/folder_lock.h"
#include "engine/io/json.h"

namespace sidechannel::experiments {

// A sweep: many runs that do not depend on each other, its cells. Cell i is the ordinary run folder
// SWEEP/cells/ID, claimed by the lock that a process holds on a run folder it works in. So any
// number of processes, on any hosts that share the folder, may work on a sweep at once, be killed
// and come back; a cell with a summary.json is finished and never touched again.

enum class CellState {
  kWaiting,     // nothing there yet
  kRunning,     // a process works on it
  kUnfinished,  // begun, and left by a process that was stopped or killed
  kFailed,      // given up with an error, which is kept beside it; to be tried again
  kFinished,
};

class Sweep {
 public:
  // `ids`: the folders' names, which never change their meaning. `settings` of a cell: those that
  // its config.json must agree with for its results to count.
  Sweep(std::filesystem::path path, std::vector<std::string> ids,
        std::function<Json(std::size_t cell)> settings)
      : path_(std::move(path)), ids_(std::move(ids)), settings_(std::move(settings)) {}

  const std::filesystem::path& path() const { return path_; }
  std::size_t size() const { return ids_.size(); }
  const std::string& id(std::size_t cell) const { return ids_[cell]; }
  std::filesystem::path folder(std::size_t cell) const { return path_ / "cells" / ids_[cell]; }

  CellState state(std::size_t cell) const;
  bool finished(std::size_t cell) const;

  // One line that says why a cell was given up; empty where it was not.
  std::string failure(std::size_t cell) const;
  void set_failure(std::size_t cell, const std::string& why) const;
  void clear_failure(std::size_t cell) const;

 private:
  std::filesystem::path path_;
  std::vector<std::string> ids_;
  std::function<Json(std::size_t cell)> settings_;
};

// Held while a file of the sweep itself is written. Waits for others, but not for ever.
class SweepLock {
 public:
  explicit SweepLock(const std::filesystem::path& sweep);

 private:
  FolderLock lock_;
};

// How the cells of a sweep are worked on by processes of this program.
struct Workers {
  std::vector<std::string> devices;  // worker i takes the i-th; as many workers as devices
  // The command line of a worker on a cell.
  std::function<std::vector<std::string>(std::size_t cell, const std::string& device)> command;
};

// Starts a process for each cell that is to be done, as many at once as there are workers, and
// returns when every cell is finished or has failed in this call: also those that other processes
// work on, and those that they leave. What a worker prints goes to log.txt in the cell's folder.
//
// A failed cell stops no other. One whose worker was killed continues, twice at most. A signal
// stops all workers with their checkpoints and throws Interrupted. Returns the cells that failed.
std::vector<std::size_t> run_workers(const Sweep& sweep, const Workers& workers);

// One worker for each device, in turn: `jobs` of them, or, for 0, as many as suit the device: one
// for each GPU, one for each core. "cuda" and, where there are GPUs, "auto" spread the workers over
// all of them; "cuda:N" keeps to one. UsageError and Error as Device::from_name.
std::vector<std::string> worker_devices(const std::string& device, std::int64_t jobs);

// Threads for each of `workers` on the CPU that share `threads`, or all cores for 0.
std::int64_t threads_each(std::int64_t threads, std::size_t workers);

// "0-3,7": the cells of a list in the form that Slurm's --array takes. Empty for none.
std::string ranges(const std::vector<std::size_t>& cells);

}  // namespace sidechannel::experiments
