#include "experiments/run/run_folder.h"

#include <cmath>
#include <span>

#include "engine/say.h"
#include "experiments/run/build_info.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

constexpr const char* kMetrics = "metrics.jsonl";
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
                        const std::vector<std::string>& except) {
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
    if (!theirs.contains(setting.key())) {
      refuse(fmt::format("holds a run of another kind (without {})", setting.key()));
    }
  }
  std::vector<std::string> names = differences(settings, theirs, except);
  // A plan may leave the precision to those who carry it out; a run never does.
  if (theirs.value("precision", Json()) == "auto") std::erase(names, "precision");
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
                     const std::vector<std::string>& except, const Json& origin)
    : path_(std::move(path)) {
  require_folder_for(path_, settings, resume, except);
  create_folder(path_);
  lock_.emplace(path_);
  require_folder_for(path_, settings, resume, except);  // nobody changes it from here on
  if (has(kConfigFile)) {
    clear_up_after_writers(path_);
  } else {
    Json config = describe(settings, device);
    config.update(origin);
    write_json(kConfigFile, config);
  }
  config_ = read_json(kConfigFile);
  Json matter = settings;
  for (const std::string& name : except) matter.erase(name);
  identity_ = json_text(matter);
  metrics_.emplace(file(kMetrics));
}

void RunFolder::write_json(const std::string& name, const Json& json) const {
  experiments::write_json(file(name), json);
}

void RunFolder::log(const Json& line) {
  check_finite(line, file(kMetrics).string());
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

void RunFolder::check_state(const SafetensorsFile& state, const std::string& source) const {
  const auto settings = state.metadata.find(kSettings);
  SC_CHECK(settings != state.metadata.end() && settings->second == identity_,
           "{}: is a state of another run", source);
  const std::int64_t bytes = number_in(state, kMetricsBytes, source);
  SC_CHECK(static_cast<std::uint64_t>(bytes) <= metrics_->size(),
           "{}: was saved after {} bytes of {}, which holds only {}", source, bytes,
           file(kMetrics).string(), metrics_->size());
}

void RunFolder::rewind_log(const SafetensorsFile& state, const std::string& source) {
  const std::int64_t bytes = number_in(state, kMetricsBytes, source);
  metrics_.reset();
  LineLog::truncate_to(file(kMetrics), static_cast<std::uint64_t>(bytes));
  metrics_.emplace(file(kMetrics));
}

void RunFolder::save_state(const std::string& name, SafetensorsFile state) {
  metrics_->sync();  // the lines that the state counts on must be there after a power cut
  state.metadata[kMetricsBytes] = std::to_string(metrics_->size());
  state.metadata[kSettings] = identity_;
  save_checkpoint(file(name), state);
}

}  // namespace sidechannel::experiments
