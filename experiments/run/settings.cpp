#include "experiments/run/settings.h"

#include <algorithm>

#include "engine/io/file.h"
#include "engine/say.h"
#include "experiments/embedded_presets.h"

namespace sidechannel::experiments {

std::string flag_of(std::string setting) {
  std::replace(setting.begin(), setting.end(), '_', '-');
  return "--" + setting;
}

std::vector<std::string> flags_of(const Setting& setting) {
  std::vector<std::string> flags = {flag_of(setting.name)};
  for (const std::string& alias : split(setting.aliases, ',')) {
    if (!alias.empty()) flags.push_back("--" + alias);
  }
  return flags;
}

std::string named(const std::string& file, const std::string& setting) {
  return file.empty() ? flag_of(setting) : fmt::format("{}: {}", file, setting);
}

std::string flag_text(const Json& value) {
  return value.is_string() ? shown(value.get<std::string>()) : value.dump();
}

std::vector<Setting> settings_declared_by(void (*make)()) {
  std::vector<Setting> all;
  noted_settings = &all;
  [[maybe_unused]] const RunSettings base;
  const std::ptrdiff_t common = std::ssize(all);
  all.clear();
  make();
  noted_settings = nullptr;
  std::rotate(all.begin(), all.begin() + common, all.end());  // a base comes first
  return all;
}

Device choose_device(RunSettings& settings, bool quiet) {
  constexpr int kFirstWithTf32 = 80;  // compute capability 8.0
  const Precision wish =
      settings.precision == "auto" ? Precision::kTf32 : precision_from(settings.precision);
  std::string why;
  Device device =
      Device::from_name(settings.device, static_cast<int>(settings.threads), wish, &why);
  if (!why.empty() && !quiet) note("device: {}\n", why);
  const int capability = device.is_cuda() ? device.cuda_queue().info().compute_capability : 0;
  if (capability < kFirstWithTf32 && wish == Precision::kTf32) {
    if (settings.precision != "auto") {
      throw UsageError(device.is_cuda()
                           ? fmt::format("precision tf32: {} has compute capability {}.{}, tf32 "
                                         "needs 8.0",
                                         device.description(), capability / 10, capability % 10)
                           : "precision tf32: the CPU computes in fp32");
    }
    if (device.is_cuda()) device = Device::cuda(device.cuda_queue().info().index, Precision::kFp32);
  }
  settings.precision =
      device.is_cuda() ? name_of(device.cuda_queue().precision()) : name_of(Precision::kFp32);
  return device;
}

std::string words_of(const Domain& domain) {
  return std::visit([](const auto& of) { return of.words(); }, domain);
}

void apply(const std::vector<Setting>& all, const Json& json, const std::string& file,
           RunSettings& settings) {
  for (const auto& item : json.items()) {
    const std::string& key = item.key();
    const Json& value = item.value();
    const auto found = std::ranges::find(all, key, &Setting::name);
    require(found != all.end(), fmt::format("{}: there is no setting {}", file, shown(key)));
    const bool taken = found->visit([&]<class T>(const auto& domain, T RunSettings::*member) {
      const std::optional<T> it = value_of<T>(value);
      if (!it || !domain.holds(*it)) return false;
      settings.*member = *it;
      return true;
    });
    require(taken, fmt::format("{} {}: expected {}", named(file, key), in_words(value),
                               words_of(found->domain)));
  }
}

void check_domains(const std::vector<Setting>& all, const RunSettings& settings) {
  for (const Setting& setting : all) {
    setting.visit([&](const auto& domain, const auto member) {
      const auto& value = settings.*member;
      require(domain.holds(value), fmt::format("{} {}: expected {}", flag_of(setting.name),
                                               shown(fmt::to_string(value)), domain.words()));
    });
  }
}

void check_effects(const std::vector<Setting>& all, const Json& given, const RunSettings& settings,
                   GivenAs as) {
  for (const Setting& setting : all) {
    if (setting.needs == nullptr || !given.contains(setting.name)) continue;
    if (setting.may_idle && as == GivenAs::kFlag) continue;
    require((settings.*setting.effective)(),
            fmt::format("{} {}: has no effect without {}", flag_of(setting.name),
                        flag_text(given[setting.name]), setting.needs));
  }
}

Json to_json(const std::vector<Setting>& all, const RunSettings& settings) {
  Json json;
  json["preset"] = settings.preset;
  for (const Setting& setting : all) {
    setting.visit([&](const auto&, const auto member) { json[setting.name] = settings.*member; });
  }
  return json;
}

LearningRate learning_rate_from(double base, const std::string& schedule, std::int64_t warmup,
                                std::int64_t steps) {
  using Schedule = LearningRate::Schedule;
  return {base, schedule == "tail" ? Schedule::kTail : Schedule::kConstant, warmup, steps};
}

std::vector<std::string> preset_names(const std::string& experiment) {
  std::vector<std::string> names;
  for (const EmbeddedPreset& known : kEmbeddedPresets) {
    if (experiment == known.experiment) names.emplace_back(known.name);
  }
  return names;
}

Json read_preset(const std::string& experiment, const std::string& preset) {
  for (const EmbeddedPreset& known : kEmbeddedPresets) {
    if (experiment == known.experiment && preset == known.name) {
      return parse_json_object(known.text, preset);
    }
  }
  require(preset.ends_with(".json"),
          fmt::format("--preset {}: expected {} or a .json file", shown(preset),
                      fmt::join(preset_names(experiment), ", ")));
  const std::vector<std::byte> bytes = read_file(preset);
  return asked_for([&] { return parse_json_object(text_of(bytes), preset); });
}

std::vector<std::string> differences(const Json& mine, const Json& theirs,
                                     const std::vector<std::string>& except) {
  std::vector<std::string> names;
  for (const auto& item : mine.items()) {
    const std::string& name = item.key();
    if (std::ranges::find(except, name) != except.end()) continue;
    if (item.value() != theirs.value(name, Json())) names.push_back(name);
  }
  return names;
}

}  // namespace sidechannel::experiments
