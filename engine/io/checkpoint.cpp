#include "engine/io/checkpoint.h"

#include "engine/io/file.h"

namespace sidechannel {

bool load_checkpoint(const std::filesystem::path& path, const TakeState& take,
                     std::string* notice) {
  const auto load = [&](const std::filesystem::path& file) {
    take(read_safetensors(file), file.string());
  };
  std::string problem;
  if (std::filesystem::exists(path)) {
    try {
      load(path);
      return true;
    } catch (const Error& error) {
      problem = error.what();
    }
  }
  const std::filesystem::path previous = previous_of(path);
  if (!std::filesystem::exists(previous)) {
    if (!problem.empty()) throw Error(problem);
    return false;
  }
  try {
    load(previous);
  } catch (const Error& error) {
    if (problem.empty()) throw;
    throw Error(fmt::format("{}; and {}", problem, error.what()));
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
