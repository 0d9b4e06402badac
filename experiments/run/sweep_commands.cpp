#include "experiments/run/sweep_commands.h"

#include <CLI/CLI.hpp>
#include <cerrno>
#include <map>
#include <system_error>

#include "engine/say.h"
#include "experiments/run/interrupt.h"

namespace sidechannel::experiments {

void add_cell_flag(CLI::App& run, SweepFlags& flags) {
  add_text_flag(run, "--cell", flags.cell, "CELL", "only this one, by number or id");
}

void add_unfinished_flag(CLI::App& status, SweepFlags& flags) {
  status
      .add_flag("--unfinished", flags.unfinished,
                "print only the numbers of the cells that are not finished, as 0-3,7")
      ->group(kRunSection);
}

void require_plan(const std::filesystem::path& path, const char* program, const char* plan) {
  SC_CHECK(std::filesystem::exists(path / plan), "{} holds no plan of a sweep; run `{} plan` first",
           path.string(), program);
}

int run_cell(const Sweep& sweep, const SweepFlags& flags, const char* where,
             const std::function<void(std::size_t cell)>& work) {
  const auto make = [&](std::size_t cell) {
    try {
      work(cell);
      return 0;
    } catch (const FolderInUse& error) {
      complain("{}: {}\n", sweep.program, error.what());
      return kExitInterrupted;  // nothing is wrong with the cell; come back later
    } catch (const std::exception& error) {
      sweep.set_failure(cell, error.what());
      throw;
    }
  };
  if (flags.cell == kCellsToldOf) return make_cells_told_of(sweep, make);
  return make(sweep.find(flags.cell, where));
}

bool done_already(const Sweep& sweep, std::size_t cell) {
  sweep.clear_failure(cell);
  if (!sweep.finished(cell)) return false;
  answer(answer_of(sweep, cell), "{}: done already, see {}\n", sweep.folder(cell).string(),
         sweep.results);
  return true;
}

Json answer_of(const Sweep& sweep, std::size_t cell) {
  return {{"cell", sweep.ids[cell]},
          {"folder", sweep.folder(cell).string()},
          {"result", read_json(sweep.folder(cell) / sweep.results)}};
}

int print_check(const Sweep& sweep, const Workforce& force) {
  const std::int64_t at_once = force.at_once();
  const CheckedMemory memory = checked_memory(force.memory, force.device.is_cuda(), at_once);
  return answer({{"folder", sweep.path.string()},
                 {"cells", sweep.size()},
                 {"at_once", at_once},
                 {"memory", memory.bytes}},
                "{} cells; {}{}\n", sweep.size(), memory.words,
                at_once > 1 ? fmt::format(" for {} cells at once", at_once) : "");
}

int answer_plan(const std::filesystem::path& folder, std::size_t cells, const MemoryNeed& each) {
  const CheckedMemory memory = checked_memory(each, false);
  return answer({{"folder", folder.string()}, {"cells", cells}, {"memory", memory.bytes}},
                "{} cells; {} each\n", cells, memory.words);
}

std::string run_cells(const Sweep& sweep, Workforce force, const Json& how,
                      const std::vector<std::string>& more) {
  force.device = Device::cpu(1);  // its threads and its memory are the workers' now
  const std::string threads =
      std::to_string(threads_each(how.value("threads", std::int64_t{0}), force.devices.size()));
  const std::string out = "--out=" + sweep.path.string();
  const auto command = [&](const std::string& cell, const std::string& device) {
    std::vector<std::string> words{sweep.program, "run",  out,         "--cell", cell,
                                   "--device",    device, "--threads", threads};
    for (const char* name : {"checkpoint_every", "stop_after"}) {
      if (how.contains(name)) words.insert(words.end(), {flag_of(name), how[name].dump()});
    }
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const bool once = how.value("stop_after", std::int64_t{0}) > 0;
  const std::vector<std::string> failed = run_workers(sweep, {force.devices, command, once});
  if (failed.empty()) return {};
  return fmt::format(
      "{}: {} of {} cells failed ({}{}); `{} status` says why, and the same command tries them "
      "again",
      sweep.path.string(), failed.size(), sweep.size(), failed.front(),
      failed.size() > 1 ? ", ..." : "", sweep.program);
}

bool write_results(const char* program, const std::filesystem::path& file,
                   const std::function<void()>& write, const char* hint) {
  try {
    const FolderLock lock = locked(file.parent_path());
    write();
    return true;
  } catch (const FileError& error) {
    if (error.code() != EACCES && error.code() != EPERM && error.code() != EROFS) throw;
    complain("{}: {}: not written ({}){}\n", program, file.string(),
             std::generic_category().message(error.code()), hint);
    return false;
  }
}

int print_status(const Sweep& sweep, const SweepFlags& flags) {
  std::map<CellState, std::vector<std::size_t>> by_state;
  std::vector<std::size_t> unfinished;
  for (std::size_t cell = 0; cell < sweep.size(); ++cell) {
    const CellState state = sweep.state(cell);
    by_state[state].push_back(cell);
    if (state != CellState::kFinished) unfinished.push_back(cell);
  }
  if (flags.unfinished) {
    return answer(Json::object({{"unfinished", unfinished}}), "{}\n", ranges(unfinished));
  }
  std::string lines;
  Json all = {{"folder", sweep.path.string()}, {"cells", sweep.size()}};
  for (const auto& [state, name] : {std::pair{CellState::kFinished, "finished"},
                                    {CellState::kRunning, "running"},
                                    {CellState::kUnfinished, "interrupted"},
                                    {CellState::kFailed, "failed"},
                                    {CellState::kWaiting, "waiting"}}) {
    const std::vector<std::size_t>& found = by_state[state];
    all[name] = found;
    if (!found.empty()) {
      lines += fmt::format("{:>12} {:>4}  ({})\n", name, found.size(), ranges(found));
    }
  }
  all["failures"] = Json::object();
  for (const std::size_t cell : by_state[CellState::kFailed]) {
    all["failures"][sweep.ids[cell]] = sweep.failure(cell);
    lines += in_lines("failed: {} {}: {}\n", cell, sweep.ids[cell], sweep.failure(cell));
  }
  if (answers_in_json) return print_json(all);
  tell(stdout, in_lines("{}: {} cells\n", sweep.path.string(), sweep.size()) + lines);
  return 0;
}

}  // namespace sidechannel::experiments
