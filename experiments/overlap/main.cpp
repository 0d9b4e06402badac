// The overlap experiment of the paper's Section 3.2 (Figure 3): for each overlap of two sequences,
// train a network to tell which of them is which, and test it.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>

#include "engine/io/npy.h"
#include "engine/say.h"
#include "experiments/overlap/distinguish.h"
#include "experiments/overlap/memory.h"
#include "experiments/run/device_choice.h"
#include "experiments/run/flags.h"
#include "experiments/run/interrupt.h"
#include "experiments/run/progress.h"
#include "experiments/run/summary.h"

namespace sidechannel::experiments {
namespace {

constexpr const char* kSummary = "summary.json";

std::filesystem::path folder_of(const RunFolder& folder, std::int64_t overlap) {
  return folder.file(fmt::format("overlap-{:03}", overlap));
}

// Those of the folder of one overlap.
Json settings_of(const OverlapSettings& settings, std::int64_t overlap) {
  Json json = to_json(settings);
  for (const char* name : {"overlaps", "jobs"}) json.erase(name);
  json["overlap"] = overlap;
  return json;
}

bool finished(const OverlapSettings& settings, const RunFolder& folder, std::int64_t overlap) {
  const std::filesystem::path path = folder_of(folder, overlap);
  return has_result(path, overlap) && holds_run_of(path, settings_of(settings, overlap));
}

// summary.json and overlap.npy [points, 2] (overlap, mean squared error) of all overlaps that are
// finished, those of earlier calls included.
Json collect(const OverlapSettings& settings, const RunFolder& folder) {
  std::vector<Json> points;
  for (std::int64_t overlap = 0; overlap <= settings.length(); ++overlap) {
    if (!finished(settings, folder, overlap)) continue;
    points.push_back(read_result(folder_of(folder, overlap), overlap));
  }
  HostArray array(DType::kF64, {static_cast<std::int64_t>(points.size()), 2});
  for (std::size_t i = 0; i < points.size(); ++i) {
    array.as<double>()[2 * i] = points[i].at("overlap");
    array.as<double>()[2 * i + 1] = points[i].at("mse");
  }
  Json json;
  json["length"] = settings.length();
  json["depth"] = settings.depth;
  json["channels"] = settings.channels;
  json["receptive_field"] = settings.network().receptive_field();
  json["iterations"] = settings.iterations;
  json["batch"] = settings.batch;
  json["points"] = points;
  const bool written = folder.has(kSummary) &&
                       text_of(read_file(folder.file(kSummary))) == json_text(json, 2) + "\n";
  if (written) return json;  // a finished sweep stays as it is
  write_npy(folder.file("overlap.npy"), array);
  folder.write_json(kSummary, json);
  return json;
}

// How many networks train at once: a core each, for small networks lose more by sharing cores than
// by sharing caches.
std::int64_t jobs_of(const OverlapSettings& settings, const Device& device) {
  if (device.is_cuda()) {
    require(settings.jobs <= 1,
            fmt::format("--jobs {}: a GPU trains one network at a time", settings.jobs));
    return 1;
  }
  const auto most = static_cast<std::int64_t>(settings.overlap_list().size());
  return std::min(most, settings.jobs > 0 ? settings.jobs : device.cpu_queue().threads());
}

// Networks of several overlaps train next to each other, each in a folder of its own on threads of
// its own. One that fails does not stop the others.
class Sweep {
 public:
  Sweep(const OverlapSettings& settings, const RunFolder& folder, const Device& device)
      : settings_(settings), folder_(folder), device_(device) {
    for (const std::int64_t overlap : settings.overlap_list()) {
      const std::string fault = fault_of_result(folder_of(folder, overlap), overlap);
      if (!fault.empty()) note("{}; it is made again\n", fault);
      if (!finished(settings, folder, overlap)) todo_.push_back(overlap);
    }
  }

  const std::vector<std::int64_t>& todo() const { return todo_; }

  void run() {
    const std::int64_t jobs =
        std::min(static_cast<std::int64_t>(todo_.size()), jobs_of(settings_, device_));
    if (jobs <= 1) {
      work(device_);
    } else {
      const int threads = std::max(1, device_.cpu_queue().threads() / static_cast<int>(jobs));
      std::vector<std::jthread> workers;
      try {
        while (std::ssize(workers) < jobs) {
          workers.emplace_back([this, threads] { work_on_own_threads(threads); });
        }
      } catch (const std::system_error&) {  // a limit of the user, the group or the system
        note("overlap: {} jobs instead of {}, since the system makes no more threads\n",
             std::max<std::size_t>(workers.size(), 1), jobs);
        if (workers.empty()) work(device_);
      }
    }
    if (interrupted_) throw Interrupted();
    if (failures_.empty()) return;
    throw Error(fmt::format("{} of {} overlaps failed; {}", failures_.size(), todo_.size(),
                            failures_.front()));
  }

 private:
  void work_on_own_threads(int threads) {
    try {
      work(Device::cpu(threads));
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex_);
      failures_.emplace_back(error.what());
    }
  }

  void work(const Device& device) {
    while (const std::optional<std::int64_t> overlap = next()) {
      try {
        RunFolder folder(folder_of(folder_, *overlap), settings_of(settings_, *overlap), device,
                         Resume::kAuto);
        distinguish(settings_, *overlap, folder, device);
        const std::lock_guard lock(mutex_);
        collect(settings_, folder_);
      } catch (const Interrupted&) {
        const std::lock_guard lock(mutex_);
        interrupted_ = true;
      } catch (const std::exception& error) {
        const std::lock_guard lock(mutex_);
        failures_.push_back(fmt::format("overlap {}: {}", *overlap, error.what()));
      }
    }
  }

  std::optional<std::int64_t> next() {
    const std::lock_guard lock(mutex_);
    if (interrupted_ || interrupt_requested() || taken_ == todo_.size()) return std::nullopt;
    return todo_[taken_++];
  }

  const OverlapSettings& settings_;
  const RunFolder& folder_;
  Device device_;
  std::vector<std::int64_t> todo_;
  std::mutex mutex_;  // of what follows, and of summary.json
  std::size_t taken_ = 0;
  bool interrupted_ = false;
  std::vector<std::string> failures_;
};

int main_program(int argc, char** argv) {
  RunFlags flags;
  CLI::App app{
      "Trains a network, one for each overlap, to tell two sequences of noise apart that share so "
      "many positions\nand hear each other through normalization alone (the paper's Section 3.2, "
      "Figure 3)."};
  app.require_subcommand(1);
  CLI::App& run = *app.add_subcommand("run", "train and test a network for each overlap");
  add_run_flags(run, setting_flags<OverlapSettings>(), "runs/PRESET-overlap-seedN", flags);
  CLI::App& print = *app.add_subcommand("settings", "print what a preset and flags come to");
  add_preset_flags(print, setting_flags<OverlapSettings>(), flags);
  for (CLI::App* command : {&run, &print}) {
    command
        ->add_option_function<std::string>(
            "--overlap",
            [&flags](const std::string& text) {
              const Json overlap =
                  setting_flag("overlap", Whole{0, kMostLength}, "").read("--overlap", text);
              flags.given["overlaps"] = overlap.dump();
            },
            "a single overlap, as --overlaps would")
        ->type_name("N")
        ->excludes(command->get_option("--overlaps"));
  }
  if (const std::optional<int> code = parse(app, argc, argv)) return *code;
  if (print) return print_settings<OverlapSettings>(flags);

  auto settings = resolve<OverlapSettings>(flags);
  const Device device = choose_device(settings, flags.check);
  const MemoryNeed memory = memory_of(settings, jobs_of(settings, device));
  const std::filesystem::path out =
      flags.out.empty()
          ? default_folder(settings.preset, fmt::format("overlap-seed{}", settings.seed))
          : flags.out;
  if (flags.check) {
    require_folder_for(out, to_json(settings), flags.resume_policy(),
                       OverlapSettings::do_not_matter());
    say("{}\n", checked_memory(memory, device.is_cuda()));
    return 0;
  }
  require_memory(memory, device);
  RunFolder folder(out, to_json(settings), device, flags.resume_policy(),
                   OverlapSettings::do_not_matter());
  const std::string where = folder.path().string();
  Sweep sweep(settings, folder, device);
  if (sweep.todo().empty()) {
    collect(settings, folder);  // a kill may have come between the last result and this
    say("{}: done already, see summary.json\n", where);
    return 0;
  }
  sweep.run();
  const Json all = collect(settings, folder);
  say("{}: mean squared error", where);
  const char* separator = " ";
  for (const Json& point : all["points"]) {
    say("{}{} at {}", separator, number_text(point["mse"].get<double>(), 3),
        point["overlap"].get<std::int64_t>());
    separator = ", ";
  }
  say(" of {} shared positions\n", settings.length());
  return 0;
}

}  // namespace
}  // namespace sidechannel::experiments

int main(int argc, char** argv) {
  using namespace sidechannel::experiments;
  return run_main("overlap", main_program, argc, argv);
}
