#include "experiments/settings.h"

#include <algorithm>

#include "engine/file.h"
#include "experiments/embedded_presets.h"

namespace sidechannel::experiments {

void require(bool condition, const std::string& message) {
  if (!condition) throw UsageError(message);
}

void require_at_least(const char* name, std::int64_t value, std::int64_t least) {
  require(value >= least, fmt::format("{} {}: expected at least {}", name, value, least));
}

void RunSettings::check() const {
  require_at_least("log every", log_every, 1);
  require_at_least("checkpoint every", checkpoint_every, 0);
  require_at_least("stop after", stop_after, 0);
  require_at_least("threads", threads, 0);
  require_at_least("seed", seed, 0);
  require(precision == "auto" || precision == "fp32" || precision == "tf32",
          fmt::format("precision {}: expected auto, fp32 or tf32", precision));
}

kernels::LearningRate learning_rate_from(double base, const std::string& schedule,
                                         std::int64_t warmup, std::int64_t steps) {
  using Schedule = kernels::LearningRate::Schedule;
  require(schedule == "constant" || schedule == "tail",
          fmt::format("schedule {}: expected constant or tail", schedule));
  return {base, schedule == "tail" ? Schedule::kTail : Schedule::kConstant, warmup, steps};
}

Json read_preset(const std::string& experiment, const std::string& preset) {
  std::string names;
  for (const EmbeddedPreset& known : kEmbeddedPresets) {
    if (experiment != known.experiment) continue;
    if (preset == known.name) return parse_json_object(known.text, preset);
    names += fmt::format("{}{}", names.empty() ? "" : ", ", known.name);
  }
  require(preset.ends_with(".json"),
          fmt::format("preset {}: expected {} or a .json file", preset, names));
  const std::vector<std::byte> bytes = read_file(preset);
  return asked_for([&] { return parse_json_object(text_of(bytes), preset); });
}

std::vector<std::string> differences(const Json& mine, const Json& theirs,
                                     const std::vector<std::string>& except) {
  std::vector<std::string> names;
  for (const auto& item : mine.items()) {
    const std::string& name = item.key();
    if (std::find(except.begin(), except.end(), name) != except.end()) continue;
    if (item.value() != theirs.value(name, Json())) names.push_back(name);
  }
  return names;
}

}  // namespace sidechannel::experiments
