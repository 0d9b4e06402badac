#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "experiments/run/sweep.h"

namespace sidechannel::experiments {

// How the cells of a sweep are worked on by processes of this program. A worker on the CPU is a
// process for each of its cells. The workers on a GPU are threads of one process, each with a queue
// of its own: kernels of several processes would take turns there, those of several queues run side
// by side.
struct Workers {
  std::vector<std::string> devices;  // worker i takes the i-th; as many workers as devices
  // The command line of a process on a cell, a number, or on kCellsToldOf.
  std::function<std::vector<std::string>(const std::string& cell, const std::string& device)>
      command;
  bool once = false;  // a cell whose worker stops with a state is left at that
};

// Has the workers make each cell that is to be done, and returns when every cell is finished or has
// failed in this call: also those that other processes work on, and those that they leave. What a
// worker prints goes to log.txt in the cell's folder.
//
// A failed cell stops no other. What ends a process of several cells, as the fault of a kernel
// does, may be any of theirs: each continues in a process of its own. One whose own process was
// killed continues, twice at most. Where the system makes fewer processes, there are fewer workers.
// A signal stops all workers with their checkpoints and throws Interrupted; so does the end, where
// workers left cells (`once`). Returns which cells failed, and why: "groups=4,seed=0: step 7: loss
// nan, ...".
std::vector<std::string> run_workers(const Sweep& sweep, const Workers& workers);

// In place of a cell, for a process that run_workers started for several, and tells which: over the
// socket that its standard input is.
inline constexpr const char* kCellsToldOf = "-";
// What such a process does: make(cell), for each that it is told of, in a thread of its own that
// speaks into the cell's log.txt. Returns the exit code; UsageError where nobody tells it.
int make_cells_told_of(const Sweep& sweep, const std::function<int(std::size_t cell)>& make);

// One worker for each device, in turn: `jobs` of them, or, for 0, as many as suit the device: one
// for each GPU, one for each core; at most one for each of `cells`. "cuda" and, where there are
// GPUs, "auto" spread the workers over all of them; "cuda:N" keeps to one. UsageError and Error as
// Device::from_name.
std::vector<std::string> worker_devices(const std::string& device, std::int64_t jobs,
                                        std::size_t cells);

// Threads for each of `workers` on the CPU that share `threads`, or all cores for 0.
std::int64_t threads_each(std::int64_t threads, std::size_t workers);

}  // namespace sidechannel::experiments
