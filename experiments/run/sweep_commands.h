#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "experiments/run/crew.h"
#include "experiments/run/flags.h"
#include "experiments/run/memory.h"
#include "experiments/run/sweep.h"

namespace sidechannel::experiments {

// The commands of every program that sweeps, but for what its cells are.

// What stands behind the flags of one.
struct SweepFlags {
  std::string cell;         // run --cell
  std::string output;       // collect --output
  bool unfinished = false;  // status --unfinished
};
void add_cell_flag(CLI::App& run, SweepFlags& flags);
void add_unfinished_flag(CLI::App& status, SweepFlags& flags);

// Error where a sweep's folder has no `plan`.
void require_plan(const std::filesystem::path& path, const char* program, const char* plan);

// `run --cell`: `work` takes the cell's folder and, but where done_already() says so, makes it.
// What it throws is kept as the cell's failure. Of kCellsToldOf many are made, each in a thread of
// its own. Returns the exit code. `where` ids stand: as of Sweep::find.
int run_cell(const Sweep& sweep, const SweepFlags& flags, const char* where,
             const std::function<void(std::size_t cell)>& work);
// Asked while one holds the cell's folder: nobody finishes it meanwhile.
bool done_already(const Sweep& sweep, std::size_t cell);
// What --json says of a cell that is finished.
Json answer_of(const Sweep& sweep, std::size_t cell);

// Who works on cells at once, what kind of device it is, and what one of them needs.
struct Workforce {
  std::vector<std::string> devices;  // each worker's (worker_devices)
  Device device;
  MemoryNeed memory;
  // Those that share one device.
  std::int64_t at_once() const { return std::ranges::count(devices, devices.front()); }
};

// `run --check`, after all else was checked.
int print_check(const Sweep& sweep, const Workforce& force);
// `plan --check`: so many cells, which need so much each.
int answer_plan(const std::filesystem::path& folder, std::size_t cells, const MemoryNeed& each);

// `run`: the cells that are left, in processes of this program, which take the device over from
// this one. `how` holds what this call says of how the work is done; `more` goes to their
// command lines. Returns what there is to say of cells that failed; throws Interrupted.
std::string run_cells(const Sweep& sweep, Workforce force, const Json& how,
                      const std::vector<std::string>& more = {});

// `collect`: calls `write`, which writes `file` of a sweep, and holds the sweep meanwhile. Where
// the folder may only be read, that costs a line, which ends with `hint`, and returns false.
bool write_results(const char* program, const std::filesystem::path& file,
                   const std::function<void()>& write, const char* hint = "");

// `status`: how many cells are in which state, and why some failed; or the numbers of those that
// are not finished alone.
int print_status(const Sweep& sweep, const SweepFlags& flags);

}  // namespace sidechannel::experiments
