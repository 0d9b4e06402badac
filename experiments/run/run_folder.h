#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engine/device.h"
#include "engine/io/checkpoint.h"
#include "engine/io/file.h"
#include "engine/io/folder_lock.h"
#include "experiments/run/settings.h"

namespace sidechannel::experiments {

// What to do with a run that the folder already holds.
enum class Resume {
  kAuto,   // continue it, or start when there is none
  kOnly,   // continue it; fail when there is none
  kNever,  // fail when there is one
};

// Replaces the file as write_file_durably does. Error, naming the number, where one is NaN or
// infinite.
void write_json(const std::filesystem::path& path, const Json& json);

inline constexpr const char* kConfigFile = "config.json";  // of a run
inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kInitialModelFile = "model-initial.safetensors";
inline constexpr const char* kPlanFile = "plan.json";       // of a sweep
inline constexpr const char* kLogFile = "log.txt";          // of a sweep's worker
inline constexpr const char* kFailureFile = "failure.txt";  // why a sweep gave a run up

// UsageError where the folder holds anything but a run of these settings, or what `resume` asks for
// is not so. Nothing is written: nothing of anybody's is ever overwritten.
void require_folder_for(const std::filesystem::path& path, const Json& settings, Resume resume,
                        const std::vector<std::string>& except = do_not_matter());

// Whether the folder's config.json is that of a run of these settings: whether its results are.
bool holds_run_of(const std::filesystem::path& path, const Json& settings);

// A whole number from 0 to `most` in the metadata of a run's state; Error, which begins with
// `source`, where there is none.
std::int64_t number_in(const SafetensorsFile& state, const std::string& key,
                       const std::string& source, std::int64_t most = INT64_MAX);

// The folder of a run: config.json, metrics.jsonl, checkpoints, results. Holds one run.
class RunFolder {
 public:
  // `settings` are those of a run on `device` (to_json); those named in `except` may differ
  // from what is there. `origin` joins config.json when it is written. UsageError as
  // require_folder_for; FolderInUse while another process has it.
  RunFolder(std::filesystem::path path, const Json& settings, const Device& device, Resume resume,
            const std::vector<std::string>& except = do_not_matter(),
            const Json& origin = Json::object());

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path file(const std::string& name) const { return path_ / name; }
  bool has(const std::string& name) const { return std::filesystem::exists(file(name)); }
  const Json& config() const { return config_; }

  void write_json(const std::string& name, const Json& json) const;
  Json read_json(const std::string& name) const { return sidechannel::read_json(file(name)); }

  // Appends a line to metrics.jsonl. Lines hold nothing that depends on the clock.
  void log(const Json& line);

  // Takes the state under `name` (see load_checkpoint). Where that is the one before, says so on
  // stderr and puts it in the place of the newer one, which will not do.
  // False where there is none.
  bool load_state(const std::string& name, const TakeState& take) const;
  // Saves `state` and, in its metadata, the length of metrics.jsonl and whose state it is.
  void save_state(const std::string& name, SafetensorsFile state);
  // Error where a state is of a run of other settings, or says that metrics.jsonl was longer than
  // it is: lines have been lost.
  void check_state(const SafetensorsFile& state, const std::string& source) const;
  // Cuts metrics.jsonl back to where it stood when `state` was saved: a run that goes on from there
  // writes the same lines again. Of a state that check_state takes; `source` is its file.
  void rewind_log(const SafetensorsFile& state, const std::string& source);

 private:
  std::filesystem::path path_;
  std::string identity_;  // the settings that results depend on
  Json config_;
  std::optional<FolderLock> lock_;  // held as long as this lives: one process works in a folder
  std::optional<LineLog> metrics_;
};

}  // namespace sidechannel::experiments
