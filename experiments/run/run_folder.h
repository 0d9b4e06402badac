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
#include "engine/optim/adam.h"
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
inline constexpr const char* kMetricsFile = "metrics.jsonl";
inline constexpr const char* kModelFile = "model.safetensors";
inline constexpr const char* kInitialModelFile = "model-initial.safetensors";
inline constexpr const char* kCheckpointFile = "checkpoint.safetensors";  // of its training
inline constexpr const char* kPlanFile = "plan.json";                     // of a sweep
inline constexpr const char* kLogFile = "log.txt";                        // of a sweep's worker
inline constexpr const char* kFailureFile = "failure.txt";  // why a sweep gave a run up

// A training's length, which may grow: what has been made of it, be it all, is then the beginning
// of a longer one. A folder's are in the order of its phases, each of which needs those before it.
struct Growth {
  const char* setting;       // how many steps it has
  std::string state = {};    // the name of its checkpoint; empty of a sweep, whose cells have them
  LearningRate rate = {};    // over the steps that there are to be now,
  std::int64_t before = 0;   // ahead of which the state counts so many of a stage of their own
  const char* by = nullptr;  // the setting that says how the rate moves
  bool anew = false;         // where steps made are not those of the longer one, all are made anew
  // What is there of the shorter one and must not be taken for the longer one's: kept as
  // previous_of them.
  std::vector<const char*> results = {};
};

// UsageError where the folder holds anything but a run of these settings, or what `resume` asks for
// is not so. A run may become longer, as `growth` has it, where the steps that it has made are
// those of one that was as long from the start. Nothing is written: nothing of anybody's is ever
// overwritten.
void require_folder_for(const std::filesystem::path& path, const Json& settings, Resume resume,
                        const std::vector<std::string>& except = do_not_matter(),
                        const std::vector<Growth>& growth = {});

// Whether the folder's config.json is that of a run of these settings: whether its results are.
bool holds_run_of(const std::filesystem::path& path, const Json& settings);

// A whole number from 0 to `most` in the metadata of a run's state; Error, which begins with
// `source`, where there is none.
std::int64_t number_in(const SafetensorsFile& state, const std::string& key,
                       const std::string& source, std::int64_t most = INT64_MAX);

// What a state in a run's folder is to the run.
enum class Standing {
  kOurs,
  kShorter,   // of when it was to be shorter: it goes on from there
  kObsolete,  // of when it was to be shorter, and what it is of is made anew
};

// In the metadata of a training's last state, where the line of metrics.jsonl after the last step
// is one that a longer training does not have: its bytes.
inline constexpr const char* kLastLineBytes = "last_line_bytes";

// In config.json, of a run that begins with a file's weights: the file, and in its settings which
// bytes that held.
inline constexpr const char* kFrom = "from";

// The folder of a run: config.json, metrics.jsonl, checkpoints, results. Holds one run.
class RunFolder {
 public:
  // `settings` are those of a run on `device` (to_json); those named in `except` may differ
  // from what is there. `origin` joins config.json when it is written. Where the run there is
  // shorter and may grow, it grows. UsageError as require_folder_for; FolderInUse while another
  // process has it.
  RunFolder(std::filesystem::path path, const Json& settings, const Device& device, Resume resume,
            const std::vector<std::string>& except = do_not_matter(),
            const Json& origin = Json::object(), std::vector<Growth> growth = {});

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
  // What a state under `name` is; `source` is its file. Error where it is of a run of other
  // settings, or says that metrics.jsonl was longer than it is: lines have been lost.
  Standing standing_of(const SafetensorsFile& state, const std::string& source,
                       const std::string& name) const;
  // Cuts metrics.jsonl back to where it stood when `state`, which is not obsolete, was saved: a run
  // that goes on from there writes the same lines again.
  void rewind_log(const SafetensorsFile& state, const std::string& source, Standing standing);
  // Cuts it back to before the first line of a phase, which is made anew.
  void drop_lines_of(const std::string& phase);

 private:
  void grow(const Json& settings);
  std::int64_t metrics_bytes(const SafetensorsFile& state, const std::string& source,
                             Standing standing) const;
  void cut_log(std::uint64_t bytes, KeepPrevious keep);

  std::filesystem::path path_;
  std::vector<Growth> growth_;
  Json matter_;           // the settings that results depend on,
  std::string identity_;  // and their text
  Json config_;
  std::optional<FolderLock> lock_;  // held as long as this lives: one process works in a folder
  std::optional<LineLog> metrics_;
};

}  // namespace sidechannel::experiments
