#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "experiments/run/sweep.h"

namespace sidechannel::experiments {

// How the cells of a sweep are worked on by processes of this program.
struct Workers {
  std::vector<std::string> devices;  // worker i takes the i-th; as many workers as devices
  // The command line of a worker on a cell.
  std::function<std::vector<std::string>(std::size_t cell, const std::string& device)> command;
  bool once = false;  // a cell whose worker stops with a state is left at that
};

// Starts a process for each cell that is to be done, as many at once as there are workers, and
// returns when every cell is finished or has failed in this call: also those that other processes
// work on, and those that they leave. What a worker prints goes to log.txt in the cell's folder.
//
// A failed cell stops no other. One whose worker was killed continues, twice at most. Where the
// system makes fewer processes, there are fewer workers. A signal stops all workers with their
// checkpoints and throws Interrupted; so does the end, where workers left cells (`once`). Returns
// which cells failed, and why: "G4-seed0-lr0.001: step 7: loss nan, ...".
std::vector<std::string> run_workers(const Sweep& sweep, const Workers& workers);

// One worker for each device, in turn: `jobs` of them, or, for 0, as many as suit the device: one
// for each GPU, one for each core; at most one for each of `cells`. "cuda" and, where there are
// GPUs, "auto" spread the workers over all of them; "cuda:N" keeps to one. UsageError and Error as
// Device::from_name.
std::vector<std::string> worker_devices(const std::string& device, std::int64_t jobs,
                                        std::size_t cells);

// Threads for each of `workers` on the CPU that share `threads`, or all cores for 0.
std::int64_t threads_each(std::int64_t threads, std::size_t workers);

}  // namespace sidechannel::experiments
