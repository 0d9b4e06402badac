#include "tests/fuzz/damaged_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <map>

#include "engine/io/json.h"
#include "engine/io/npy.h"
#include "engine/io/safetensors.h"
#include "engine/say.h"
#include "experiments/localization/localize.h"
#include "experiments/localization/training.h"
#include "experiments/overlap/distinguish.h"
#include "experiments/run/summary.h"
#include "experiments/sweep/collect.h"
#include "experiments/sweep/plan.h"
#include "tests/fuzz/mutator.h"
#include "tests/harness/program.h"

namespace sidechannel::fuzz {
namespace {

namespace fs = std::filesystem;
using namespace experiments;
using harness::content_of;

constexpr double kMostSeconds = 2;

// Progress and notices of the readers would be more than anybody reads.
class Silence {
 public:
  Silence() : stderr_(dup(STDERR_FILENO)) {
    const int nothing = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(nothing, STDERR_FILENO);
    close(nothing);
  }
  ~Silence() {
    dup2(stderr_, STDERR_FILENO);
    close(stderr_);
  }
  Silence(const Silence&) = delete;
  Silence& operator=(const Silence&) = delete;

 private:
  int stderr_;
};

// A file, and who reads it.
struct Target {
  fs::path file;
  std::function<void()> read;
};

// Settings of a tiny run, and what a JSON object says beside.
template <class S>
S tiny(const std::string& more) {
  S settings;
  for (const std::string& json :
       {std::string(R"({"depth": 3, "channels": 2, "kernel_size": 3, "batch": 2, "iterations": 3,
                        "log_every": 1, "checkpoint_every": 1, "device": "cpu",
                        "precision": "fp32"})"),
        more}) {
    apply(parse_json(json, "tiny"), "tiny", settings);
  }
  return settings;
}

class Files {
 public:
  explicit Files(std::uint32_t seed)
      : mutator_(seed,
                 "{ } [ ] , : \" null true false -1 -7 -0 0 1 3.7 1e9 1e308 1e999 NaN 2147483648 "
                 "4294967296 4611686018427387904 9223372036854775807 9223372036854775808 "
                 "18446744073709551616 \"\" \"step\" \"F64\" \"I64\" \"shape\":[ \\u0000 \\ud800 "
                 "\\n \xff 010 0x10 (03,",
                 "[{9 0") {
    const auto localization = tiny<LocalizationSettings>(  // of the kind that keeps the most
        R"({"norm": "batch", "samples_per_set": 2, "length": 8, "curriculum_length": 4,
            "curriculum_iterations": 1, "probe_batch": 2, "probe_iterations": 2, "probe_width": 2,
            "map_samples": 4})");
    const fs::path run = folder_.path() / "run";
    work(localization, run);
    for (const char* file : {"checkpoint.safetensors", "probes_checkpoint.safetensors",
                             "map_checkpoint.safetensors", "config.json", "model.safetensors"}) {
      targets_.push_back({run / file, [=, this] { work(localization, run); }});
      fs::remove(previous_of(run / file));
    }
    fs::copy(run, folder_.path() / "done", fs::copy_options::recursive);
    const fs::path done = folder_.path() / "done";
    targets_.push_back({done / "summary.json", [=] { read_summary(done); }});
    targets_.push_back({done / "model.safetensors",
                        [=, this] { load_model(done / "model.safetensors", device_); }});
    for (const char* file : {"localized.npy", "layer_variance.npy"}) {
      targets_.push_back({done / file, [=] { converted(read_npy(done / file), DType::kF32); }});
    }
    fs::remove(run / "summary.json");  // or nothing else is read

    const auto overlap = tiny<OverlapSettings>(R"({"test_pairs": 4, "overlaps": "3"})");
    const fs::path pair = folder_.path() / "overlap";
    work(overlap, pair);
    for (const char* file :
         {"checkpoint.safetensors", "test_checkpoint.safetensors", "config.json"}) {
      targets_.push_back({pair / file, [=, this] { work(overlap, pair); }});
      fs::remove(previous_of(pair / file));
    }
    targets_.push_back({pair / "result.json", [=] { read_result(pair, 3); }});

    const fs::path sweep = folder_.path() / "sweep";
    const SweepPlan plan = plan_sweep({.preset = "groups/demo", .over = {"groups=1,2"}});
    write_plan(sweep, plan);
    targets_.push_back({sweep / "plan.json", [=] { collect(sweep, read_plan(sweep)); }});
    const fs::path cell = cells_of(sweep, plan).folder(0);
    fs::create_directories(cell);
    fs::copy(done / "summary.json", cell / "summary.json");
    targets_.push_back({cell / "summary.json", [=] { collect(sweep, plan); }});

    const fs::path planner = folder_.path() / "planner" / "model.safetensors";
    fs::create_directories(planner.parent_path());
    save_model(planner, TemporalUnet(device_, DType::kF32,
                                     {.transition = 1,
                                      .dim = 4,
                                      .multipliers = {1, 2},
                                      .kernel_size = 3,
                                      .steps = 2,
                                      .norm = NormKind::kGroupPopulation,
                                      .groups = 2},
                                     0));
    // As `leak` reads it.
    targets_.push_back({planner, [=, this] { load_network(planner, device_, DType::kF64); }});

    const fs::path preset = folder_.path() / "preset.json";
    std::ofstream(preset) << R"({"length": 16, "norm": "group", "groups": 2, "channels": 4,
        "learning_rate": 1e-3, "for_norm": {"none": {"iterations": 10}}})";
    targets_.push_back(
        {preset, [=] { settings_from_preset<LocalizationSettings>(preset).check(); }});
    for (const Target& target : targets_) {
      const fs::path folder = target.file.parent_path();
      for (const auto& entry : fs::directory_iterator(folder)) {
        if (entry.is_regular_file()) whole_[folder][entry.path()] = content_of(entry.path());
      }
    }
  }

  // Damages a file, reads it, and puts everything back.
  void damage_one(Outcome& outcome) {
    const Target& target = targets_[mutator_.below(targets_.size())];
    const std::string damaged = damage(target.file);
    std::ofstream(target.file, std::ios::binary) << damaged;
    const std::clock_t start = std::clock();
    std::string fault;
    try {
      target.read();
      ++outcome.taken;
    } catch (const Error& error) {
      ++outcome.refused;
      const std::string line = one_line(error.what());
      if (line.empty() || line.size() > 4000)
        fault = fmt::format("a message of {} bytes", line.size());
    } catch (const std::exception& error) {
      fault = fmt::format("{}, which is no Error", error.what());
    }
    const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
    outcome.slowest = std::max(outcome.slowest, seconds);
    if (seconds > kMostSeconds) fault += fmt::format(" {:.1f} s", seconds);
    if (!fault.empty()) {
      outcome.faults.push_back(fmt::format("{}: {}", target.file.filename().string(), fault));
    }
    restore(target.file.parent_path());
  }

 private:
  void work(const LocalizationSettings& settings, const fs::path& path) const {
    RunFolder folder(path, to_json(settings), device_, Resume::kAuto);
    run_localization(settings, folder, device_);
  }
  void work(const OverlapSettings& settings, const fs::path& path) const {
    RunFolder folder(path, to_json(settings), device_, Resume::kAuto);
    distinguish(settings, 3, folder, device_);
  }

  void restore(const fs::path& folder) const {
    const auto& files = whole_.at(folder);
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.is_regular_file() && !files.contains(entry.path())) fs::remove(entry.path());
    }
    for (const auto& [path, bytes] : files) {
      if (content_of(path) != bytes) std::ofstream(path, std::ios::binary) << bytes;
    }
  }

  std::string damage(const fs::path& file) {
    const std::string bytes = whole_.at(file.parent_path()).at(file);
    const std::string kind = file.extension().string();
    if (mutator_.below(4) > 0 && kind == ".safetensors") return with_fields_changed(bytes);
    if (mutator_.below(4) > 0 && kind == ".json") {
      Json json = parse_json(bytes, "json");
      for (std::size_t edits = 1 + mutator_.below(2); edits > 0; --edits) change(some_value(json));
      return json_text(json);
    }
    const auto view = std::as_bytes(std::span(bytes));
    Bytes damaged(view.begin(), view.end());
    if (mutator_.below(8) == 0) damaged.resize(mutator_.below(damaged.size()));
    mutator_.edit(damaged);
    return std::string(text_of(damaged));
  }

  // Valid in itself, with a checksum that fits: only its meaning is damaged.
  std::string with_fields_changed(const std::string& bytes) {
    SafetensorsFile file = parse_safetensors(std::as_bytes(std::span(bytes)), "safetensors");
    for (std::size_t edits = 1 + mutator_.below(2); edits > 0; --edits) {
      auto tensor = file.tensors.begin();
      std::advance(tensor, mutator_.below(file.tensors.size()));
      auto entry = file.metadata.begin();
      if (!file.metadata.empty()) std::advance(entry, mutator_.below(file.metadata.size()));
      const std::size_t choice = mutator_.below(10);
      if (choice < 4 && !file.metadata.empty()) {
        entry->second = damaged_text(entry->second);
      } else if (choice == 4 && !file.metadata.empty()) {
        file.metadata.erase(entry);
      } else if (choice == 5 && file.tensors.size() > 1) {
        file.tensors.erase(tensor);
      } else if (choice == 6) {
        HostArray moved = tensor->second;
        file.tensors.erase(tensor);
        file.tensors[mutator_.below(2) == 0 ? "a\nb" : "conv_in.weight"] = moved;
      } else if (choice == 7) {
        const std::array<std::int64_t, 6> dims = {0, 1, 2, 3, 7, 1000};
        Shape shape{dims[mutator_.below(dims.size())], dims[mutator_.below(dims.size())]};
        if (mutator_.below(3) == 0) shape = Shape{dims[mutator_.below(dims.size())]};
        tensor->second = HostArray(DType::kF32, shape);
      } else if (choice == 8) {
        constexpr std::array kTypes = {DType::kF32, DType::kF64, DType::kI64, DType::kU8};
        tensor->second = HostArray(kTypes[mutator_.below(kTypes.size())], tensor->second.shape);
      } else {
        change(tensor->second);
      }
    }
    return std::string(text_of(serialize_safetensors(file)));
  }

  std::string damaged_text(const std::string& text) {
    if (text.starts_with('{') && text.ends_with('}')) {  // or an edit before has damaged it
      Json json = parse_json(text, "metadata");
      change(some_value(json));
      return json_text(json);
    }
    static const harness::Words kTexts = harness::words(
        "-7 1e3 18446744073709551616 9223372036854775807 2 4 0x3 999999999999 {", {"", " 1", "\n"});
    return kTexts[mutator_.below(kTexts.size())];
  }

  // An element of a tensor to something that no run writes.
  void change(HostArray& array) {
    if (array.bytes.empty()) return;
    const std::size_t width = size_of(array.dtype);
    std::byte* const at = &array.bytes[mutator_.below(array.bytes.size() / width) * width];
    if (array.dtype == DType::kI64) {
      constexpr std::array<std::int64_t, 6> kNumbers = {
          -7, 0, 1, 1 << 20, std::int64_t{1} << 33, std::numeric_limits<std::int64_t>::max()};
      std::memcpy(at, &kNumbers[mutator_.below(kNumbers.size())], width);
    } else if (array.dtype == DType::kF64) {
      const std::array<double, 4> numbers = {-1.0, 1e300, std::nan(""), INFINITY};
      std::memcpy(at, &numbers[mutator_.below(numbers.size())], width);
    } else if (array.dtype == DType::kF32) {
      const std::array<float, 4> numbers = {-1.0f, 1e30f, std::nanf(""), INFINITY};
      std::memcpy(at, &numbers[mutator_.below(numbers.size())], width);
    }
  }

  // The document or a value in it, however deep.
  Json& some_value(Json& json) {
    Json* value = &json;
    while (value->is_structured() && !value->empty() && mutator_.below(6) > 0) {
      auto at = value->begin();
      std::advance(at, mutator_.below(value->size()));
      value = &*at;
    }
    return *value;
  }

  void change(Json& value) {
    Json others = Json::parse(R"([null, -1, 3.7, 9223372036854775807, 18446744073709551615,
                                  "x\n\u001b[31m", [], {}, true, false, 1e308])");
    others.push_back(std::int64_t{1} << (20 + mutator_.below(40)));
    const std::size_t choice = mutator_.below(others.size() + 1);
    if (choice < others.size()) {
      value = others[choice];
    } else if (value.is_structured() && !value.empty()) {
      value.erase(value.begin());
    }
  }

  const harness::TemporaryFolder folder_;
  const Device device_ = Device::cpu(1);
  Mutator mutator_;
  std::vector<Target> targets_;
  std::map<fs::path, std::map<fs::path, std::string>> whole_;  // by folder: its files
};

}  // namespace

Outcome damage_files(std::int64_t count, std::uint32_t seed) {
  const Silence silence;
  Files files(seed);
  Outcome outcome;
  for (std::int64_t i = 0; i < count; ++i) files.damage_one(outcome);
  return outcome;
}

}  // namespace sidechannel::fuzz
