#include "experiments/run/run_folder.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <span>
#include <utility>

#include "engine/say.h"
#include "experiments/run/build_info.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMetricsBytes = "metrics_bytes";  // in a state's metadata
constexpr const char* kSettings = "settings";           // likewise

Json describe(const Json& settings, const Device& device) {
  const BuildInfo build = build_info();
  Json json{{"settings", settings},       {"version", build.version},   {"commit", build.commit},
            {"modified", build.modified}, {"compiler", build.compiler}, {"build", build.flags},
            {"device", device.name()}};
  if (device.is_cuda()) {
    const kernels::CudaDeviceInfo& gpu = device.cuda_queue().info();
    json["gpu"] = gpu.name;
    json["driver"] = gpu.driver_version;
    json["cuda"] = gpu.runtime_version;
  } else {
    json["threads"] = device.cpu_queue().threads();
  }
  json["machine"] = cpu_description();
  return json;
}

// JSON has no such numbers, and its writer puts null for them: nobody would see that they were
// counted. What is undefined must be null from the start.
void check_finite(const Json& json, const std::string& source) {
  if (json.is_structured()) {
    for (const auto& [key, value] : json.items()) {
      check_finite(value, fmt::format("{}: {}", source, key));
    }
  }
  SC_CHECK(!json.is_number_float() || std::isfinite(json.get<double>()), "{} is {}", source,
           json.get<double>());
}

// Why `state`, of a training that was to have `steps`, is none of the one that `growth` has it
// become, in words; empty where it is.
std::string why_not(const Growth& growth, std::int64_t steps, const SafetensorsFile& state,
                    const std::string& source, std::int64_t log_every) {
  const std::int64_t at = number_in(state, "step", source), made = at - growth.before;
  LearningRate theirs = growth.rate;
  theirs.steps = steps;
  // Rates that differ anywhere do so from some step on.
  if (made > 0 && theirs.at(made - 1) != growth.rate.at(made - 1)) {
    return fmt::format("its step {} had a lower learning rate than a longer one's has ({} tail)",
                       made, flag_of(growth.by));
  }
  if (made == steps && at % log_every != 0 && !state.metadata.contains(kLastLineBytes)) {
    return fmt::format("{}, by an earlier version, lacks what a longer one goes on with", source);
  }
  return {};
}

// Likewise of the run in a folder, which was to have `steps`; nothing where that need not be asked.
std::string why_not(const fs::path& path, const Growth& growth, std::int64_t steps,
                    const Json& settings) {
  if (growth.state.empty() || growth.anew) return {};
  const std::optional<SafetensorsFile> state = load_checkpoint(path / growth.state);
  if (!state) return {};
  return why_not(growth, steps, *state, (path / growth.state).string(),
                 settings.at("log_every").get<std::int64_t>());
}

// What there is of a run that did not come of its training, such as a model that was given.
bool was_trained(const fs::path& path, const Growth& growth) {
  const fs::path state = path / growth.state;
  return growth.state.empty() || fs::exists(state) || fs::exists(previous_of(state)) ||
         std::ranges::none_of(growth.results,
                              [&](const char* name) { return fs::exists(path / name); });
}

// The steps that a training had, where it is shorter than `growth` has it.
std::optional<std::int64_t> shorter(const Json& theirs, const Json& settings,
                                    const Growth& growth) {
  const auto steps = value_of<std::int64_t>(theirs.value(growth.setting, Json()));
  const bool is = steps && *steps > 0 && *steps < settings.at(growth.setting).get<std::int64_t>();
  return is ? steps : std::nullopt;
}

}  // namespace

std::int64_t number_in(const SafetensorsFile& state, const std::string& key,
                       const std::string& source, std::int64_t most) {
  const auto found = state.metadata.find(key);
  SC_CHECK(found != state.metadata.end(), "{}: has no {}, so it is no state of a run", source, key);
  const std::optional<std::int64_t> value = whole_number(found->second);
  SC_CHECK(value && *value >= 0 && *value <= most,
           "{}: {} is {}, expected a whole number from 0 to {}", source, key,
           in_quotes(found->second), most);
  return *value;
}

void write_json(const fs::path& path, const Json& json) {
  check_finite(json, path.string());
  const std::string text = json_text(json, 2) + "\n";
  write_file_durably(path, std::as_bytes(std::span(text)));
}

void require_folder_for(const fs::path& path, const Json& settings, Resume resume,
                        const std::vector<std::string>& except, const std::vector<Growth>& growth) {
  const auto refuse = [&](const std::string& what) {
    throw UsageError(fmt::format("{} {}; choose another --out", path.string(), what));
  };
  if (fs::exists(path / kPlanFile)) refuse("holds a sweep");
  if (!fs::exists(path / kConfigFile)) {
    require(resume != Resume::kOnly, fmt::format("{} holds no run to resume", path.string()));
    // Locks, what a killed writer left, and what a sweep writes before its worker gets here.
    const auto may_stand = [](const std::string& name) {
      return name.starts_with('.') || name == kLogFile || name == kFailureFile;
    };
    std::string stranger;
    std::error_code error;  // of a folder that is not there, or that create_folder will refuse
    for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) {
      const std::string name = entry.path().filename();
      if (!may_stand(name)) stranger = name;
    }
    if (stranger.empty()) return;
    // Unless another process has begun the run meanwhile.
    if (!fs::exists(path / kConfigFile)) refuse(fmt::format("holds no run but {}", stranger));
  }
  if (resume == Resume::kNever) refuse("already holds a run");
  const Json config = read_json(path / kConfigFile);
  const Json& theirs = object_member(config, "settings", (path / kConfigFile).string());
  for (const auto& setting : settings.items()) {
    if (!theirs.contains(setting.key()) && setting.key() != kFrom) {
      refuse(fmt::format("holds a run of another kind (without {})", setting.key()));
    }
  }
  std::vector<std::string> names = differences(settings, theirs, except);
  // A plan may leave the precision to those who carry it out; a run never does.
  if (theirs.value("precision", Json()) == "auto") std::erase(names, "precision");
  std::string why;
  for (const Growth& grows : growth) {
    const std::optional<std::int64_t> steps = shorter(theirs, settings, grows);
    if (!steps || !was_trained(path, grows)) continue;
    std::erase(names, grows.setting);
    const std::string reason = why_not(path, grows, *steps, settings);
    if (reason.empty() || !why.empty()) continue;
    why = fmt::format("holds a run of {} {} that cannot grow to {}: {}", flag_of(grows.setting),
                      *steps, settings.at(grows.setting).dump(), reason);
  }
  if (names.empty() && !why.empty()) refuse(why);
  if (names.empty()) return;
  const std::string& name = names.front();
  refuse(fmt::format("holds a run with other settings ({} is {} there, {} here{})", name,
                     in_words(theirs.value(name, Json())), in_words(settings.at(name)),
                     names.size() > 1 ? fmt::format("; {} more differ", names.size() - 1) : ""));
}

bool holds_run_of(const fs::path& path, const Json& settings) {
  if (!fs::exists(path / kConfigFile)) return false;
  try {
    require_folder_for(path, settings, Resume::kAuto);
    return true;
  } catch (const Error&) {  // those who open it say so
    return false;
  }
}

RunFolder::RunFolder(fs::path path, const Json& settings, const Device& device, Resume resume,
                     const std::vector<std::string>& except, const Json& origin,
                     std::vector<Growth> growth)
    : path_(std::move(path)), growth_(std::move(growth)), matter_(settings) {
  require_folder_for(path_, settings, resume, except, growth_);
  create_folder(path_);
  lock_.emplace(path_);
  require_folder_for(path_, settings, resume, except, growth_);  // nobody changes it from here on
  if (has(kConfigFile)) {
    clear_up_after_writers(path_);
    grow(settings);
  } else {
    Json config = describe(settings, device);
    config.update(origin);
    write_json(kConfigFile, config);
  }
  config_ = read_json(kConfigFile);
  for (const std::string& name : except) matter_.erase(name);
  // A run goes on with the weights that it began with, the file being named again or not.
  const Json& theirs = config_["settings"];
  if (theirs.contains(kFrom)) matter_[kFrom] = theirs[kFrom];
  identity_ = json_text(matter_);
  metrics_.emplace(file(kMetricsFile));
}

// config.json comes last: until it says that the run is longer, the shorter one is what is there,
// and makes the results that it misses again.
void RunFolder::grow(const Json& settings) {
  Json config = read_json(kConfigFile);
  Json& theirs = config["settings"];
  bool grown = false;
  for (const Growth& growth : growth_) {
    const std::optional<std::int64_t> steps = shorter(theirs, settings, growth);
    if (!steps) continue;
    theirs[growth.setting] = settings[growth.setting];
    grown = true;
    note("{}: {} grows from {} to {}\n", path_.string(), flag_of(growth.setting), *steps,
         theirs[growth.setting].dump());
    for (const char* name : growth.results) {
      if (has(name)) rename_file(file(name), previous_of(file(name)));
    }
  }
  if (!grown) return;
  sync_folder_of(file(kConfigFile));
  write_json(kConfigFile, config);
}

void RunFolder::write_json(const std::string& name, const Json& json) const {
  experiments::write_json(file(name), json);
}

void RunFolder::log(const Json& line) {
  check_finite(line, file(kMetricsFile).string());
  metrics_->append(json_text(line));
}

bool RunFolder::load_state(const std::string& name, const TakeState& take) const {
  std::string notice;
  const bool found = load_checkpoint(file(name), take, &notice);
  if (notice.empty()) return found;
  note("{}\n", notice);
  rename_file(previous_of(file(name)), file(name));  // or the next save would keep what is damaged
  return found;
}

Standing RunFolder::standing_of(const SafetensorsFile& state, const std::string& source,
                                const std::string& name) const {
  const auto settings = state.metadata.find(kSettings);
  const auto refuse_unless = [&](bool ours) {
    SC_CHECK(ours, "{}: is a state of another run", source);
  };
  refuse_unless(settings != state.metadata.end());
  Standing standing = Standing::kOurs;
  if (settings->second != identity_) {
    const Json theirs = parse_json_object(settings->second, source);
    refuse_unless(theirs.size() == matter_.size());
    std::vector<std::string> names = differences(matter_, theirs, {});
    bool later = false;  // than the phase whose state it is
    for (const Growth& growth : growth_) {
      const bool own = growth.state == name;
      if (std::erase(names, growth.setting) > 0) {
        const std::optional<std::int64_t> steps = shorter(theirs, matter_, growth);
        refuse_unless(steps.has_value());
        const bool goes_on = own && standing == Standing::kOurs &&
                             why_not(growth, *steps, state, source, matter_["log_every"]).empty();
        refuse_unless(goes_on || !own || growth.anew);
        if (!later) standing = goes_on ? Standing::kShorter : Standing::kObsolete;
      }
      later = later || own;
    }
    refuse_unless(names.empty());
  }
  if (standing == Standing::kObsolete) return standing;
  const std::int64_t bytes = metrics_bytes(state, source, standing);
  SC_CHECK(static_cast<std::uint64_t>(bytes) <= metrics_->size(),
           "{}: was saved after {} bytes of {}, which holds only {}", source, bytes,
           file(kMetricsFile).string(), metrics_->size());
  return standing;
}

std::int64_t RunFolder::metrics_bytes(const SafetensorsFile& state, const std::string& source,
                                      Standing standing) const {
  const std::int64_t bytes = number_in(state, kMetricsBytes, source);
  const bool without_last =
      standing == Standing::kShorter && state.metadata.contains(kLastLineBytes);
  return without_last ? bytes - number_in(state, kLastLineBytes, source, bytes) : bytes;
}

void RunFolder::rewind_log(const SafetensorsFile& state, const std::string& source,
                           Standing standing) {
  cut_log(static_cast<std::uint64_t>(metrics_bytes(state, source, standing)),
          KeepPrevious(standing == Standing::kShorter));
}

void RunFolder::drop_lines_of(const std::string& phase) {
  const std::string beginning = fmt::format(R"({{"phase":"{}",)", phase);
  std::ifstream lines(file(kMetricsFile));
  std::uint64_t bytes = 0;
  for (std::string line; std::getline(lines, line) && !line.starts_with(beginning);) {
    bytes += line.size() + 1;
  }
  cut_log(std::min(bytes, metrics_->size()), KeepPrevious::kYes);
}

// A shorter run's lines are kept, not only those that are written again.
void RunFolder::cut_log(std::uint64_t bytes, KeepPrevious keep) {
  const fs::path path = file(kMetricsFile);
  if (keep == KeepPrevious::kYes && metrics_->size() > bytes) {
    write_file_durably(previous_of(path), read_file(path, UINT64_MAX));
  }
  metrics_.reset();
  LineLog::truncate_to(path, bytes);
  metrics_.emplace(path);
}

void RunFolder::save_state(const std::string& name, SafetensorsFile state) {
  metrics_->sync();  // the lines that the state counts on must be there after a power cut
  state.metadata[kMetricsBytes] = std::to_string(metrics_->size());
  state.metadata[kSettings] = identity_;
  save_checkpoint(file(name), state);
}

}  // namespace sidechannel::experiments
