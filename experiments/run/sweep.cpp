#include "experiments/run/sweep.h"

#include <algorithm>
#include <span>

#include "engine/say.h"
#include "experiments/run/domain.h"
#include "experiments/run/run_folder.h"

namespace sidechannel::experiments {

namespace fs = std::filesystem;

std::size_t Sweep::find(const std::string& name, const char* where) const {
  const std::optional<std::int64_t> number = whole_number(name);
  if (number && *number >= 0 && *number < std::ssize(ids)) {
    return static_cast<std::size_t>(*number);
  }
  const auto found = std::ranges::find(ids, name);
  require(found != ids.end(),
          fmt::format("--cell {}: expected a whole number from 0 to {}, or an id {}", shown(name),
                      size() - 1, where));
  return static_cast<std::size_t>(found - ids.begin());
}

bool Sweep::finished(std::size_t cell) const {
  return has_results(cell) && holds_run_of(folder(cell), settings(cell));
}

CellState Sweep::state(std::size_t cell) const {
  if (finished(cell)) return CellState::kFinished;
  if (FolderLock::is_held(folder(cell))) return CellState::kRunning;
  if (!failure(cell).empty()) return CellState::kFailed;
  return fs::exists(folder(cell) / kConfigFile) ? CellState::kUnfinished : CellState::kWaiting;
}

std::string Sweep::failure(std::size_t cell) const {
  const fs::path file = folder(cell) / kFailureFile;
  std::error_code unknown;
  if (!fs::exists(file, unknown)) return {};
  try {
    std::string text(text_of(read_file(file)));
    while (text.ends_with('\n')) text.pop_back();
    return text;
  } catch (const Error& error) {
    return error.what();
  }
}

void Sweep::set_failure(std::size_t cell, const std::string& why) const {
  try {
    create_folder(folder(cell));
    const std::string line = one_line(why) + '\n';
    write_file_durably(folder(cell) / kFailureFile, std::as_bytes(std::span(line)));
  } catch (const Error&) {
    // Where the folder takes nothing, as on a full disk, `why` is said all the same.
  }
}

void Sweep::clear_failure(std::size_t cell) const {
  std::error_code ignored;
  fs::remove(folder(cell) / kFailureFile, ignored);
}

FolderLock locked(const fs::path& sweep) {
  create_folder(sweep);
  return FolderLock(sweep, std::chrono::seconds(10));
}

std::string ranges(const std::vector<std::size_t>& cells) {
  std::string text;
  for (std::size_t i = 0; i < cells.size();) {
    std::size_t end = i;
    while (end + 1 < cells.size() && cells[end + 1] == cells[end] + 1) ++end;
    text += fmt::format("{}{}", text.empty() ? "" : ",", cells[i]);
    if (end > i) text += fmt::format("-{}", cells[end]);
    i = end + 1;
  }
  return text;
}

}  // namespace sidechannel::experiments
