// The overlap experiment of the paper's Section 3.2 (Figure 3): for each overlap of two sequences,
// train a network to tell which of them is which, and test it.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <numeric>
#include <string>

#include "engine/io/npy.h"
#include "engine/say.h"
#include "experiments/overlap/distinguish.h"
#include "experiments/run/beginning.h"
#include "experiments/run/help.h"
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
  std::string from;
};

// Those of the sweep in the folder; none where there is none.
Json settings_in(const fs::path& folder) {
  if (!fs::exists(folder / kConfigFile)) return Json::object();
  const std::string source = (folder / kConfigFile).string();
  return object_member(read_json(source), "settings", source);
}

// The network in the file that a sweep is to begin with; null where that is not named.
std::unique_ptr<Network> given_network(const OverlapSettings& settings, const std::string& path) {
  if (path.empty()) return nullptr;
  std::unique_ptr<Network> network = load_network(path, Device::cpu(1), DType::kF32);
  const auto* found = dynamic_cast<const Localizer*>(network.get());
  require(found != nullptr && found->config().norm == NormKind::kPack,
          fmt::format("--from {}: no network of the program overlap", path));
  const Json mine = to_json(settings);
  require_same(mine, "depth", found->config().depth, path);
  require_same(mine, "channels", found->config().channels, path);
  require_same(mine, "kernel_size", found->config().kernel_size, path);
  return network;
}

// A cell for each of the overlaps.
Sweep cells_of(const OverlapSettings& settings, const fs::path& folder,
               const std::vector<std::int64_t>& overlaps) {
  const Json beginning = settings_in(folder).value(kFrom, Json());
  std::vector<std::string> ids;
  for (const std::int64_t overlap : overlaps) ids.push_back(fmt::format("overlap-{:03}", overlap));
  return {.path = folder,
          .program = "overlap",
          .cells = folder,
          .ids = ids,
          .settings =
              [=](std::size_t cell) { return settings_of(settings, overlaps[cell], beginning); },
          .results = kResult,
          .has_results =
              [=](std::size_t cell) { return has_result(folder / ids[cell], overlaps[cell]); }};
}

std::vector<std::int64_t> all_overlaps(const OverlapSettings& settings) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(settings.length() + 1));
  std::iota(all.begin(), all.end(), std::int64_t{0});
  return all;
}

// A sweep's length, for its own folder.
std::vector<Growth> sweep_growth() {
  return {{.setting = "iterations", .results = {kSummary}}};
}

// require_folder_for a sweep, which grows where all cells that there are can grow.
void require_sweep(const fs::path& folder, const OverlapSettings& settings, const Json& described,
                   Resume resume, const std::vector<std::string>& except) {
  require_folder_for(folder, described, resume, except, sweep_growth());
  if (settings_in(folder).value("iterations", settings.iterations) == settings.iterations) return;
  const Sweep cells = cells_of(settings, folder, all_overlaps(settings));
  for (std::size_t cell = 0; cell < cells.size(); ++cell) {
    if (!fs::exists(cells.folder(cell) / kConfigFile)) continue;
    require_folder_for(cells.folder(cell), cells.settings(cell), Resume::kAuto, do_not_matter(),
                       growth_of(settings));
  }
}

// Opens its folder, and keeps there what all cells begin with where `from`, the file of `given`, or
// an earlier call says.
void open_sweep(const fs::path& folder, const OverlapSettings& settings, const Json& described,
                const Device& device, Resume resume, const std::vector<std::string>& except,
                const std::string& from, const Network* given) {
  const RunFolder plan(folder, described, device, resume, except, origin_of(from), sweep_growth());
  if (!begins_with_a_file(plan)) return;
  Localizer network(Device::cpu(1), DType::kF32, settings.network(), settings.random_seed());
  begin(network, plan, kInitialModelFile, given);
}

// summary.json of all overlaps that are finished, those of earlier calls included.
Json summary_of(const OverlapSettings& settings, const fs::path& folder) {
  const std::vector<std::int64_t> all = all_overlaps(settings);
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
  theirs.erase(kFrom);
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

int answer_points(const fs::path& folder, const Json& summary) {
  std::vector<std::string> points;
  for (const Json& point : summary["points"]) {
    points.push_back(fmt::format("{} at {}", number_text(point["mse"].get<double>(), 3),
                                 point["overlap"].get<std::int64_t>()));
    if (point["notice"].is_string()) note("{}\n", point["notice"].get<std::string>());
  }
  return answer({{"folder", folder.string()}, {"summary", summary}},
                "{}: mean squared error {} of {} shared positions\n", folder.string(),
                fmt::format("{}", fmt::join(points, ", ")), summary["length"].get<std::int64_t>());
}

int plan(const Arguments& arguments) {
  const auto settings = resolve<OverlapSettings>(arguments.run);
  const fs::path out = folder_of(arguments, settings.preset, settings.seed);
  const std::size_t cells = settings.overlap_list().size();
  const std::unique_ptr<Network> given = given_network(settings, arguments.from);
  if (arguments.run.check) return answer_plan(out, cells, memory_of(settings));
  std::vector<std::string> except = do_not_matter();
  except.emplace_back("jobs");  // but the overlaps are the plan
  const Json described = beginning_with(arguments.from, to_json(settings));
  require_sweep(out, settings, described, Resume::kAuto, except);
  open_sweep(out, settings, described, Device::cpu(1), Resume::kAuto, except, arguments.from,
             given.get());
  return answer({{"folder", out.string()}, {"cells", cells}}, "{}: {} cells\n",
                (out / kConfigFile).string(), cells);
}

int run_one(const Arguments& arguments) {
  const fs::path out = folder_of(arguments);
  require(arguments.from.empty(), "--from: is not for one --cell to set");
  const OverlapSettings plan = planned(out, arguments.run.given);
  const std::vector<std::int64_t> overlaps = plan.overlap_list();
  const Json beginning = settings_in(out).value(kFrom, Json());
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
    RunFolder folder(cells.folder(cell), settings_of(settings, overlaps[cell], beginning), device,
                     Resume::kAuto, do_not_matter(), Json::object(), growth_of(settings));
    if (done_already(cells, cell)) return;
    const Json result = distinguish(settings, overlaps[cell], folder, device);
    answer(answer_of(cells, cell), "{}: mean squared error {}\n", cells.ids[cell],
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
  const std::vector<std::string> except = do_not_matter<OverlapSettings>();
  const std::unique_ptr<Network> given = given_network(settings, arguments.from);
  const Json described = beginning_with(arguments.from, to_json(settings));
  require_sweep(out, settings, described, resume, except);
  if (arguments.run.check) return print_check(cells_of(settings, out, overlaps), force);
  require_memory(force.memory, force.device, force.at_once());
  open_sweep(out, settings, described, force.device, resume, except, arguments.from, given.get());
  const Sweep cells = cells_of(settings, out, overlaps);
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
  if (!done) return answer_points(out, summary);
  return answer({{"folder", out.string()}, {"summary", summary}},
                "{}: done already, see summary.json\n", out.string());
}

int collect_results(const Arguments& arguments) {
  const fs::path out = folder_of(arguments);
  const OverlapSettings settings = planned(out, Json::object());
  const Json summary = collect(settings, out);
  SC_CHECK(!summary["points"].empty(), "{}: none of {} overlaps is finished", out.string(),
           settings.overlap_list().size());
  return answer_points(out, summary);
}

int main_program(int argc, char** argv) {
  Arguments arguments;
  RunFlags& flags = arguments.run;
  CLI::App app{
      "Trains a network, one for each overlap, to tell two sequences of noise apart that share so "
      "many positions\nand hear each other through normalization alone (the paper's Section 3.2, "
      "Figure 3).",
      "overlap"};
  app.require_subcommand(1);
  const std::vector<Setting>& settings = all_settings<OverlapSettings>();
  const Defaults defaults = defaults_of<OverlapSettings>();
  CLI::App& run_command = *app.add_subcommand("run", "train and test a network for each overlap");
  add_run_flags(run_command, settings, "runs/PRESET-overlap-seedN", flags, defaults);
  add_cell_flag(run_command, arguments.sweep);
  add_from_flag(run_command, arguments.from);
  CLI::App& print = *app.add_subcommand("settings", "print what a preset and flags come to");
  add_preset_flags(print, settings, flags, defaults);
  CLI::App& plan_command = *app.add_subcommand("plan", "write config.json, for `run --cell`");
  add_preset_flags(plan_command, settings, flags, defaults);
  add_check_flag(plan_command, flags.check);
  add_from_flag(plan_command, arguments.from);
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
        ->group("Data")
        ->excludes(command->get_option("--overlaps"));
  }
  CLI::App& status = *app.add_subcommand("status", "how far the sweep is, and what failed");
  CLI::App& collect_command = *app.add_subcommand(
      "collect", "summary.json and overlap.npy from the cells that are finished");
  for (CLI::App* command : {&status, &collect_command}) {
    add_preset_flag(*command, flags.preset, "whose default folder to look in");
    add_setting_flags(*command, settings_named<OverlapSettings>({"seed"}), flags.given, defaults);
  }
  for (CLI::App* command : {&plan_command, &status, &collect_command}) {
    add_text_flag(*command, "--out", flags.out, "FOLDER", "of the sweep")
        ->default_str("runs/PRESET-overlap-seedN");
  }
  add_unfinished_flag(status, arguments.sweep);
  add_examples(app, {"overlap run --preset demo", "overlap run --preset demo --overlap 14",
                     "overlap run --help"});
  add_examples(run_command, {"overlap run --preset demo --check",
                             "overlap run --overlaps 0..32:8,33 --lr 5e-4 --out runs/few-overlaps",
                             "overlap run --preset small --jobs 2 --quiet --json",
                             "overlap run --out /shared/overlap --cell 0"});
  add_examples(print, {"overlap settings --preset paper", "overlap settings --depth 12"});
  add_examples(plan_command, {"overlap plan --preset paper --check",
                              "overlap plan --preset paper --out /shared/overlap"});
  add_examples(status, {"overlap status --out /shared/overlap",
                        "overlap status --out /shared/overlap --unfinished"});
  add_examples(collect_command,
               {"overlap collect --out /shared/overlap", "overlap collect --preset demo --json"});
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
