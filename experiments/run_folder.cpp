#include "experiments/run_folder.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <span>

#include "engine/finite.h"
#include "engine/say.h"
#include "experiments/build_info.h"
#include "experiments/interrupt.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfig = kConfigFile;
constexpr const char* kMetrics = "metrics.jsonl";
constexpr double kCheckpointSeconds = 30;

Json describe(const Json& settings, const Device& device) {
  const BuildInfo build = build_info();
  Json json;
  json["settings"] = settings;
  json["version"] = build.version;
  json["commit"] = build.commit;
  json["modified"] = build.modified;
  json["compiler"] = build.compiler;
  json["build"] = build.flags;
  json["device"] = device.name();
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

// A whole number from 0 to `most` in a state's metadata.
std::int64_t number(const SafetensorsFile& state, const std::string& key, const std::string& source,
                    std::int64_t most = std::numeric_limits<std::int64_t>::max()) {
  const auto found = state.metadata.find(key);
  SC_CHECK(found != state.metadata.end(), "{}: has no {}, so it is no state of a run", source, key);
  const std::string& text = found->second;
  std::int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  SC_CHECK(error == std::errc() && end == text.data() + text.size() && value >= 0 && value <= most,
           "{}: {} is {}, expected a whole number from 0 to {}", source, key, in_quotes(text),
           most);
  return value;
}

}  // namespace

void write_json(const fs::path& path, const Json& json) {
  check_finite(json, path.string());
  const std::string text = json_text(json, 2) + "\n";
  write_file_durably(path, std::as_bytes(std::span(text)));
}

RunFolder::RunFolder(fs::path path, const Json& settings, const Device& device, Resume resume,
                     const std::vector<std::string>& do_not_matter)
    : path_(std::move(path)) {
  require(!has(kPlanFile),
          fmt::format("{} holds a sweep of groups; choose another --out", path_.string()));
  create_folder(path_);
  lock_.emplace(path_);
  clear_up_after_writers(path_);
  if (has(kConfig)) {
    if (resume == Resume::kNever) {
      throw UsageError(fmt::format("{} already holds a run; choose another --out", path_.string()));
    }
    const Json config = read_json(kConfig);
    const Json& theirs = object_member(config, "settings", file(kConfig).string());
    for (const auto& setting : settings.items()) {
      require(theirs.contains(setting.key()),
              fmt::format("{} holds a run of another kind (without {}); choose another --out",
                          path_.string(), setting.key()));
    }
    const std::vector<std::string> names = differences(settings, theirs, do_not_matter);
    if (!names.empty()) {
      const std::string& name = names.front();
      throw UsageError(fmt::format(
          "{} holds a run with other settings ({} is {} there, {} here{}); choose another --out",
          path_.string(), name, in_words(theirs.value(name, Json())), in_words(settings.at(name)),
          names.size() > 1 ? fmt::format("; {} more differ", names.size() - 1) : ""));
    }
  } else {
    if (resume == Resume::kOnly) {
      throw UsageError(fmt::format("{} holds no run to resume", path_.string()));
    }
    write_json(kConfig, describe(settings, device));
  }
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

void RunFolder::rewind_log(const SafetensorsFile& state, const std::string& source) {
  const std::int64_t bytes = number(state, "metrics_bytes", source);
  SC_CHECK(static_cast<std::uint64_t>(bytes) <= metrics_->size(),
           "{}: was saved after {} bytes of {}, which holds only {}", source, bytes,
           file(kMetrics).string(), metrics_->size());
  metrics_.reset();
  LineLog::truncate_to(file(kMetrics), static_cast<std::uint64_t>(bytes));
  metrics_.emplace(file(kMetrics));
}

void RunFolder::save_state(const std::string& name, SafetensorsFile state) {
  metrics_->sync();  // the lines that the state counts on must be there after a power cut
  state.metadata["metrics_bytes"] = std::to_string(metrics_->size());
  save_checkpoint(file(name), state);
}

double run_phase(RunFolder& folder, const Phase& phase) {
  using Clock = std::chrono::steady_clock;
  std::int64_t step = 0;
  double seconds_before = 0;
  const fs::path state_file = folder.file(phase.state_file);
  const auto take = [&](const SafetensorsFile& state, const std::string& source) {
    step = number(state, "step", source, phase.steps);
    seconds_before = static_cast<double>(number(state, "milliseconds", source)) / 1000;
    check_finite(state.tensors, source);
    phase.load(state, source, step);
    if (step < phase.steps) folder.rewind_log(state, source);
  };
  const bool resumed = folder.load_state(phase.state_file, take);
  if (resumed && step == phase.steps) return seconds_before;
  const Clock::time_point start = Clock::now();
  const auto seconds = [&] {
    return seconds_before + std::chrono::duration<double>(Clock::now() - start).count();
  };
  Clock::time_point saved_at = start;
  const auto save = [&] {
    const DelaysInterrupts until_saved;
    SafetensorsFile state;
    state.metadata["step"] = std::to_string(step);
    state.metadata["milliseconds"] = std::to_string(static_cast<std::int64_t>(seconds() * 1000));
    phase.save(state);
    check_finite(state.tensors, fmt::format("{}, step {}", phase.name, step));
    folder.save_state(phase.state_file, std::move(state));
    saved_at = Clock::now();
  };
  Progress progress(phase.name, phase.steps, phase.unit, step);
  if (resumed) progress.note(fmt::format("{}: resumed at step {}", phase.name, step));
  const PollsInterrupts polls;
  save();
  const std::int64_t first = step;
  while (step < phase.steps) {
    const bool enough = phase.stop_after > 0 && step - first >= phase.stop_after;
    if (enough || interrupt_requested()) {
      save();
      progress.note(fmt::format("{}: stopped at step {}, state saved in {}", phase.name, step,
                                state_file.string()));
      throw Interrupted();
    }
    phase.step(step);
    ++step;
    if (progress.due()) progress.show(step, phase.details());
    const bool due =
        phase.checkpoint_every > 0
            ? step % phase.checkpoint_every == 0
            : std::chrono::duration<double>(Clock::now() - saved_at).count() > kCheckpointSeconds;
    if (due || step == phase.steps) save();
  }
  progress.finish(step, phase.details());
  return seconds();
}

}  // namespace sidechannel::experiments
