#include "engine/checkpoint.h"

#include "engine/file.h"

namespace sidechannel {

std::optional<SafetensorsFile> load_checkpoint(const std::filesystem::path& path,
                                               std::string* notice) {
  const std::filesystem::path previous = previous_of(path);
  std::string problem;
  if (std::filesystem::exists(path)) {
    try {
      return read_safetensors(path);
    } catch (const Error& error) {
      problem = error.what();
    }
  }
  if (std::filesystem::exists(previous)) {
    SafetensorsFile state = read_safetensors(previous);
    if (notice) {
      *notice =
          fmt::format("{}; continuing from {}",
                      problem.empty() ? path.string() + " is missing" : problem, previous.string());
    }
    return state;
  }
  if (!problem.empty()) throw Error(problem);
  return std::nullopt;
}

void save_checkpoint(const std::filesystem::path& path, const SafetensorsFile& state) {
  write_safetensors(path, state, KeepPrevious::kYes);
}

}  // namespace sidechannel
