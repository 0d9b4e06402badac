#include "experiments/run/settings.h"

#include <algorithm>

#include "engine/io/file.h"
#include "experiments/embedded_presets.h"

namespace sidechannel::experiments {

std::string flag_of(std::string setting) {
  std::replace(setting.begin(), setting.end(), '_', '-');
  return "--" + setting;
}

std::string named(const std::string& file, const std::string& setting) {
  return file.empty() ? flag_of(setting) : fmt::format("{}: {}", file, setting);
}

std::string flag_text(const Json& value) {
  return value.is_string() ? shown(value.get<std::string>()) : value.dump();
}

kernels::LearningRate learning_rate_from(double base, const std::string& schedule,
                                         std::int64_t warmup, std::int64_t steps) {
  using Schedule = kernels::LearningRate::Schedule;
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
          fmt::format("--preset {}: expected {} or a .json file", shown(preset), names));
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
