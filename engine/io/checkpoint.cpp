#include "engine/io/checkpoint.h"

#include "engine/io/file.h"

namespace sidechannel {

bool load_checkpoint(const std::filesystem::path& path, const TakeState& take,
                     std::string* notice) {
  // What is wrong with a state; what is wrong with the machine is not its fault.
  const auto problem_of = [&](const std::filesystem::path& file) -> std::string {
    try {
      take(read_safetensors(file), file.string());
    } catch (const MachineError&) {
      throw;
    } catch (const Error& error) {
      return error.what();
    }
    return {};
  };
  std::string problem;
  if (std::filesystem::exists(path)) {
    problem = problem_of(path);
    if (problem.empty()) return true;
  }
  const std::filesystem::path previous = previous_of(path);
  if (!std::filesystem::exists(previous)) {
    if (!problem.empty()) throw Error(problem);
    return false;
  }
  if (const std::string older = problem_of(previous); !older.empty()) {
    throw Error(problem.empty() ? older : fmt::format("{}; and {}", problem, older));
  }
  if (notice) {
    *notice =
        fmt::format("{}; continuing from {}",
                    problem.empty() ? path.string() + " is missing" : problem, previous.string());
  }
  return true;
}

std::optional<SafetensorsFile> load_checkpoint(const std::filesystem::path& path) {
  std::optional<SafetensorsFile> newest;
  load_checkpoint(path, [&](const SafetensorsFile& state, const std::string&) { newest = state; });
  return newest;
}

void save_checkpoint(const std::filesystem::path& path, const SafetensorsFile& state) {
  write_safetensors(path, state, KeepPrevious::kYes);
}

}  // namespace sidechannel
