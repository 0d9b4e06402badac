// The overlap experiment of the paper's Section 3.2 (Figure 3): for each overlap of two sequences,
// train a network to tell which of them is which, and test it.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <numeric>
#include <string>

#include "engine/io/npy.h"
#include "engine/say.h"
#include "experiments/overlap/distinguish.h"
#include "experiments/run/program.h"
#include "experiments/run/progress.h"
#include "experiments/run/summary.h"
#include "experiments/run/sweep_commands.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

struct Arguments {
  RunFlags run;
  SweepFlags sweep;
};

// A cell for each of the overlaps.
Sweep cells_of(const OverlapSettings& settings, const fs::path& folder,
               const std::vector<std::int64_t>& overlaps) {
  std::vector<std::string> ids;
  for (const std::int64_t overlap : overlaps) ids.push_back(fmt::format("overlap-{:03}", overlap));
  return {.path = folder,
          .program = "overlap",
          .cells = folder,
          .ids = ids,
          .settings = [=](std::size_t cell) { return settings_of(settings, overlaps[cell]); },
          .results = kResult,
          .has_results =
              [=](std::size_t cell) { return has_result(folder / ids[cell], overlaps[cell]); }};
}

// summary.json of all overlaps that are finished, those of earlier calls included.
Json summary_of(const OverlapSettings& settings, const fs::path& folder) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(settings.length() + 1));
  std::iota(all.begin(), all.end(), std::int64_t{0});
  const Sweep cells = cells_of(settings, folder, all);
  std::vector<Json> points;
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (cells.finished(i)) points.push_back(read_result(cells.folder(i), all[i]));
  }
  return {{"length", settings.length()},
          {"depth", settings.depth},
          {"channels", settings.channels},
          {"receptive_field", settings.network().receptive_field()},
          {"iterations", settings.iterations},
          {"batch", settings.batch},
          {"points", points}};
}

// Writes it, and overlap.npy [points, 2] (overlap, mean squared error).
Json collect(const OverlapSettings& settings, const fs::path& folder) {
  Json summary = summary_of(settings, folder);
  const bool written = fs::exists(folder / "overlap.npy") && fs::exists(folder / kSummary) &&
                       text_of(read_file(folder / kSummary)) == json_text(summary, 2) + "\n";
  if (written || summary["points"].empty()) return summary;  // a finished sweep stays as it is
  write_results("overlap", folder / kSummary, [&] {
    summary = summary_of(settings, folder);  // others may have finished more meanwhile
    const Json& points = summary["points"];
    HostArray array(DType::kF64, {static_cast<std::int64_t>(points.size()), 2});
    for (std::size_t i = 0; i < points.size(); ++i) {
      array.as<double>()[2 * i] = points[i].at("overlap");
      array.as<double>()[2 * i + 1] = points[i].at("mse");
    }
    write_npy(folder / "overlap.npy", array);
    write_json(folder / kSummary, summary);
  });
  return summary;
}

// Those of the sweep in the folder, carried out as `how` says.
OverlapSettings planned(const fs::path& folder, const Json& how) {
  require_plan(folder, "overlap", kConfigFile);
  const std::string source = (folder / kConfigFile).string();
  Json theirs = object_member(read_json(source), "settings", source);
  OverlapSettings settings;
  settings.preset = field<std::string>(theirs, "preset", source);
  for (const std::string& name : do_not_matter()) theirs.erase(name);
  apply(theirs, source, settings);
  // Workers of `run` are told its --overlaps, whose cells it counts.
  std::vector<std::string> may = do_not_matter();
  may.push_back("overlaps");
  for (const auto& [name, value] : how.items()) {
    require(std::ranges::find(may, name) != may.end(),
            fmt::format("{} {}: is not for one --cell to set", flag_of(name), flag_text(value)));
  }
  apply(how, "", settings);
  settings.check();
  return settings;
}

fs::path folder_of(const Arguments& arguments, const std::string& preset, std::int64_t seed) {
  if (!arguments.run.out.empty()) return arguments.run.out;
  return default_folder(preset, fmt::format("overlap-seed{}", seed));
}
fs::path folder_of(const Arguments& arguments) {
  return folder_of(arguments, arguments.run.preset,
                   arguments.run.given.value("seed", std::int64_t{0}));
}

int say_points(const fs::path& folder, const Json& summary) {
  say("{}: mean squared error", folder.string());
  const char* separator = " ";
  for (const Json& point : summary["points"]) {
    say("{}{} at {}", separator, number_text(point["mse"].get<double>(), 3),
        point["overlap"].get<std::int64_t>());
    separator = ", ";
  }
  say(" of {} shared positions\n", summary["length"].get<std::int64_t>());
  for (const Json& point : summary["points"]) {
    if (point["notice"].is_string()) note("{}\n", point["notice"].get<std::string>());
  }
  return 0;
}

int plan(const Arguments& arguments) {
  const auto settings = resolve<OverlapSettings>(arguments.run);
  const fs::path out = folder_of(arguments, settings.preset, settings.seed);
  const std::size_t cells = settings.overlap_list().size();
  if (arguments.run.check) {
    say("{} cells; {} each\n", cells, checked_memory(memory_of(settings), false));
    return 0;
  }
  std::vector<std::string> except = do_not_matter();
  except.emplace_back("jobs");  // but the overlaps are the plan
  const RunFolder folder(out, to_json(settings), Device::cpu(1), Resume::kAuto, except);
  say("{}: {} cells\n", folder.file(kConfigFile).string(), cells);
  return 0;
}

int run_one(const Arguments& arguments) {
  const fs::path out = folder_of(arguments);
  const OverlapSettings plan = planned(out, arguments.run.given);
  const std::vector<std::int64_t> overlaps = plan.overlap_list();
  const Sweep cells = cells_of(plan, out, overlaps);
  constexpr const char* kLikeThis = "such as overlap-003";
  if (arguments.run.check) {
    cells.find(arguments.sweep.cell, kLikeThis);
    OverlapSettings settings = plan;
    return print_check(cells,
                       {{settings.device}, choose_device(settings, true), memory_of(settings)});
  }
  return run_cell(cells, arguments.sweep, kLikeThis, [&](std::size_t cell) {
    OverlapSettings settings = plan;
    const Device device = choose_device(settings);
    require_memory(memory_of(settings), device);
    RunFolder folder(cells.folder(cell), settings_of(settings, overlaps[cell]), device,
                     Resume::kAuto);
    if (done_already(cells, cell)) return;
    const Json result = distinguish(settings, overlaps[cell], folder, device);
    say("{}: mean squared error {}\n", cells.ids[cell],
        number_text(result["mse"].get<double>(), 3));
  });
}

int run(const Arguments& arguments) {
  auto settings = resolve<OverlapSettings>(arguments.run);
  Device device = choose_device(settings, arguments.run.check);
  const std::vector<std::int64_t> overlaps = settings.overlap_list();
  // A core each, for small networks lose more by sharing cores than by sharing caches.
  const std::int64_t jobs =
      settings.jobs > 0 || device.is_cuda() ? settings.jobs : device.cpu_queue().threads();
  Workforce force{worker_devices(settings.device, jobs, overlaps.size()), std::move(device),
                  memory_of(settings)};
  const fs::path out = folder_of(arguments, settings.preset, settings.seed);
  const Resume resume = arguments.run.resume_policy();
  const Sweep cells = cells_of(settings, out, overlaps);
  if (arguments.run.check) {
    require_folder_for(out, to_json(settings), resume, do_not_matter<OverlapSettings>());
    return print_check(cells, force);
  }
  require_memory(force.memory, force.device, force.at_once());
  {
    const RunFolder plan(out, to_json(settings), force.device, resume,
                         do_not_matter<OverlapSettings>());
  }
  bool done = true;
  for (std::size_t cell = 0; cell < cells.size(); ++cell) {
    const std::string fault = fault_of_result(cells.folder(cell), overlaps[cell]);
    if (!fault.empty()) note("{}; it is made again\n", fault);
    done = done && cells.finished(cell);
  }
  const std::string failures = done ? ""
                                    : run_cells(cells, std::move(force), to_json(settings),
                                                {"--overlaps", settings.overlaps});
  // Also where a kill came between the last result and this.
  const Json summary = collect(settings, out);
  SC_CHECK(failures.empty(), "{}", failures);
  if (!done) return say_points(out, summary);
  say("{}: done already, see summary.json\n", out.string());
  return 0;
}

int collect_results(const Arguments& arguments) {
  const fs::path out = folder_of(arguments);
  const OverlapSettings settings = planned(out, Json::object());
  const Json summary = collect(settings, out);
  SC_CHECK(!summary["points"].empty(), "{}: none of {} overlaps is finished", out.string(),
           settings.overlap_list().size());
  return say_points(out, summary);
}

int main_program(int argc, char** argv) {
  Arguments arguments;
  RunFlags& flags = arguments.run;
  CLI::App app{
      "Trains a network, one for each overlap, to tell two sequences of noise apart that share so "
      "many positions\nand hear each other through normalization alone (the paper's Section 3.2, "
      "Figure 3)."};
  app.require_subcommand(1);
  const std::vector<Setting>& settings = all_settings<OverlapSettings>();
  CLI::App& run_command = *app.add_subcommand("run", "train and test a network for each overlap");
  add_run_flags(run_command, settings, "runs/PRESET-overlap-seedN", flags);
  add_cell_flag(run_command, arguments.sweep);
  CLI::App& print = *app.add_subcommand("settings", "print what a preset and flags come to");
  add_preset_flags(print, settings, flags);
  CLI::App& plan_command = *app.add_subcommand("plan", "write config.json, for `run --cell`");
  add_preset_flags(plan_command, settings, flags);
  add_check_flag(plan_command, flags.check);
  for (CLI::App* command : {&run_command, &print, &plan_command}) {
    command
        ->add_option_function<std::string>(
            "--overlap",
            [&flags](const std::string& text) {
              const Setting one{"overlap", "", Whole{0, kMostLength}};
              flags.given["overlaps"] = read_flag(one, "--overlap", text).dump();
            },
            "a single overlap, as --overlaps would")
        ->type_name("N")
        ->excludes(command->get_option("--overlaps"));
  }
  CLI::App& status = *app.add_subcommand("status", "how far the sweep is, and what failed");
  CLI::App& collect_command = *app.add_subcommand(
      "collect", "summary.json and overlap.npy from the cells that are finished");
  for (CLI::App* command : {&status, &collect_command}) {
    add_preset_flags(*command, settings_named<OverlapSettings>({"seed"}), flags);
  }
  for (CLI::App* command : {&plan_command, &status, &collect_command}) {
    command->add_option("--out", flags.out, "folder of the sweep");
  }
  add_unfinished_flag(status, arguments.sweep);
  if (const std::optional<int> code = parse(app, argc, argv)) return *code;
  if (print) return print_settings<OverlapSettings>(flags);
  if (plan_command) return plan(arguments);
  if (collect_command) return collect_results(arguments);
  if (status) {
    const fs::path out = folder_of(arguments);
    const OverlapSettings plan = planned(out, Json::object());
    return print_status(cells_of(plan, out, plan.overlap_list()), arguments.sweep);
  }
  return arguments.sweep.cell.empty() ? run(arguments) : run_one(arguments);
}

}  // namespace
}  // namespace sidechannel::experiments

int main(int argc, char** argv) {
  using namespace sidechannel::experiments;
  return run_main("overlap", main_program, argc, argv);
}
