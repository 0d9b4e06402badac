#include "experiments/settings.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <type_traits>

#include "engine/file.h"
#include "experiments/embedded_presets.h"

namespace sidechannel::experiments {
namespace {

using Json = nlohmann::ordered_json;

void require(bool condition, const std::string& message) {
  if (!condition) throw UsageError(message);
}

std::string preset_names() {
  std::string names;
  for (const EmbeddedPreset& preset : kEmbeddedPresets) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", preset.name);
  }
  return names;
}

Json read_preset(const std::string& preset) {
  for (const EmbeddedPreset& known : kEmbeddedPresets) {
    if (preset == known.name) return Json::parse(known.text);
  }
  if (!preset.ends_with(".json")) {
    throw UsageError(fmt::format("preset {}: expected {} or a .json file", preset, preset_names()));
  }
  const std::vector<std::byte> bytes = read_file(preset);
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  Json json = Json::parse(text, text + bytes.size(), nullptr, false);
  require(json.is_object(), fmt::format("{}: expected a JSON object of settings", preset));
  return json;
}

// Takes the settings that `json` names.
void apply(const Json& json, const std::string& source, Settings& settings) {
  for (const auto& [key, value] : json.items()) {
    if (key == "for_norm") continue;
    bool known = false;
    for_each_setting(settings,
                     [&, &key = key, &value = value](const char* name, auto& member, const char*) {
                       if (key != name) return;
                       known = true;
                       using T = std::remove_reference_t<decltype(member)>;
                       const bool fits = std::is_same_v<T, std::string> ? value.is_string()
                                         : std::is_same_v<T, double>    ? value.is_number()
                                                                        : value.is_number_integer();
                       require(fits, fmt::format("{}: {} cannot be {}", source, key, value.dump()));
                       member = value.template get<T>();
                     });
    require(known, fmt::format("{}: there is no setting {}", source, key));
  }
}

}  // namespace

Settings settings_from_preset(const std::string& preset, const std::string& norm) {
  const Json json = read_preset(preset);
  Settings settings;
  settings.preset = preset;
  apply(json, preset, settings);
  if (!norm.empty()) settings.norm = norm;
  if (json.contains("for_norm") && json["for_norm"].contains(settings.norm)) {
    apply(json["for_norm"][settings.norm], preset, settings);
  }
  return settings;
}

Json to_json(const Settings& settings) {
  Json json;
  json["preset"] = settings.preset;
  for_each_setting(settings,
                   [&](const char* name, const auto& member, const char*) { json[name] = member; });
  return json;
}

std::vector<std::string> differences(const Json& a, const Json& b) {
  constexpr std::array kNoMatter = {"preset", "device", "threads", "checkpoint_every",
                                    "stop_after"};
  std::vector<std::string> names;
  for_each_setting(Settings(), [&](const char* name, const auto&, const char*) {
    const bool matters = std::none_of(kNoMatter.begin(), kNoMatter.end(), [&](const char* other) {
      return std::string(other) == name;
    });
    if (matters && a.value(name, Json()) != b.value(name, Json())) names.emplace_back(name);
  });
  return names;
}

void Settings::check() const {
  const auto at_least = [](const char* name, std::int64_t value, std::int64_t least) {
    require(value >= least, fmt::format("{} {}: expected at least {}", name, value, least));
  };
  at_least("length", length, 1);
  at_least("batch", batch, 1);
  at_least("iterations", iterations, 1);
  at_least("warmup", warmup, 0);
  at_least("probe width", probe_width, 1);
  at_least("probe batch", probe_batch, 1);
  at_least("probe iterations", probe_iterations, 1);
  at_least("map samples", map_samples, 2);
  at_least("log every", log_every, 1);
  at_least("checkpoint every", checkpoint_every, 0);
  at_least("stop after", stop_after, 0);
  at_least("threads", threads, 0);
  at_least("seed", seed, 0);
  at_least("curriculum iterations", curriculum_iterations, 0);
  if (curriculum_iterations > 0) at_least("curriculum length", curriculum_length, 1);
  require(total_iterations() < (std::int64_t{1} << 32), "iterations: expected fewer than 2^32");
  require(learning_rate > 0 && probe_learning_rate > 0, "learning rate: expected more than 0");
  require(curriculum_iterations == 0 || curriculum_learning_rate > 0,
          "curriculum learning rate: expected more than 0");
  require(p_threshold > 0 && p_threshold < 1, "p threshold: expected a number between 0 and 1");
  require(precision == "auto" || precision == "fp32" || precision == "tf32",
          fmt::format("precision {}: expected auto, fp32 or tf32", precision));
  network().check();
  training_rate();
  evaluation_statistics();
  if (norm == "batch") {
    for (const auto& [name, value] :
         {std::pair{"batch", batch}, {"probe batch", probe_batch}, {"map samples", map_samples}}) {
      require(value % samples_per_set == 0,
              fmt::format("{} {}: expected a multiple of {} samples per set", name, value,
                          samples_per_set));
    }
  }
}

LocalizerConfig Settings::network() const {
  LocalizerConfig config;
  config.depth = depth;
  config.channels = channels;
  config.kernel_size = kernel_size;
  config.norm = norm_kind_from(norm);
  config.groups = groups;
  config.samples_per_set = samples_per_set;
  return config;
}

kernels::LearningRate Settings::curriculum_rate() const {
  kernels::LearningRate rate;
  rate.base = curriculum_learning_rate;
  return rate;
}

kernels::LearningRate Settings::training_rate() const {
  using Schedule = kernels::LearningRate::Schedule;
  require(schedule == "constant" || schedule == "tail",
          fmt::format("schedule {}: expected constant or tail", schedule));
  return {learning_rate, schedule == "tail" ? Schedule::kTail : Schedule::kConstant, warmup,
          iterations};
}

Statistics Settings::evaluation_statistics() const {
  if (eval_statistics == "minibatch") return Statistics::kMinibatch;
  require(eval_statistics == "population",
          fmt::format("eval statistics {}: expected minibatch or population", eval_statistics));
  require(network().has_population_statistics(),
          fmt::format("eval statistics population: {} norm has no running statistics", norm));
  return Statistics::kPopulation;
}

}  // namespace sidechannel::experiments
