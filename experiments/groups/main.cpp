// The sweeps behind the paper's Figure 4, how far GroupNorm carries positions by its number of
// groups, and behind Section 3.3's crosstalk, how far BatchNorm does by the samples that share its
// statistics. Many independent runs of the localization experiment, on one machine or on many.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <span>
#include <string>

#include "engine/io/output_file.h"
#include "engine/say.h"
#include "experiments/groups/collect.h"
#include "experiments/groups/norm_sweep.h"
#include "experiments/localization/localize.h"
#include "experiments/localization/memory.h"
#include "experiments/run/help.h"
#include "experiments/run/program.h"
#include "experiments/run/sweep_commands.h"

namespace sidechannel::experiments {
namespace {

constexpr const char* kWhereIdsStand = "in plan.json";
constexpr const char* kCellsSection = "Cells";

struct Arguments {
  Json over = Json::object();  // the axis
  std::string preset;
  std::string out;
  Json given = Json::object();  // of the plan
  Json how = Json::object();    // of this call
  Json crew = Json::object();   // of this call: how many work
  SweepFlags sweep;
  bool check = false;
};

// The axis that the call names, or null for that of the plan that is there, or else groups.
const SweepAxis* axis_of(const Arguments& arguments) {
  if (arguments.over.empty()) return nullptr;
  return &sweep_axis_named(arguments.over["over"].get<std::string>());
}

std::string preset_of(const Arguments& arguments) {
  return arguments.preset.empty() ? "demo" : arguments.preset;
}

std::filesystem::path folder_of(const Arguments& arguments) {
  if (!arguments.out.empty()) return arguments.out;
  const SweepAxis* axis = axis_of(arguments);
  return default_folder(preset_of(arguments), (axis != nullptr ? *axis : kGroups).experiment);
}

// The plan in the folder, or the one that would be made; `arguments` must not ask for another one
// than is there. Nothing is written.
NormSweep plan_of(const Arguments& arguments) {
  const std::filesystem::path path = folder_of(arguments);
  const SweepAxis* named = axis_of(arguments);
  const bool asks = named != nullptr || !arguments.preset.empty() || !arguments.given.empty();
  if (has_plan(path) && !asks) return read_plan(path);
  const SweepAxis& axis = named != nullptr ? *named : kGroups;
  for (const SweepAxis& other : kSweepAxes) {
    require(&other == &axis || !arguments.given.contains(other.name),
            fmt::format("{}: has no effect without --over {}", flag_of(other.name), other.name));
  }
  NormSweep sweep = plan_sweep(preset_of(arguments), arguments.given, axis);
  require_folder_for(path, sweep);
  return has_plan(path) ? read_plan(path) : sweep;
}

NormSweep existing_plan(const Arguments& arguments) {
  require_plan(folder_of(arguments), "groups", kPlanFile);
  return read_plan(folder_of(arguments));
}

LocalizationSettings settings_of(const NormSweep& sweep, std::size_t cell, const Json& how) {
  LocalizationSettings settings = sweep.settings_of(cell);
  apply(how, "", settings);
  settings.check();
  return settings;
}

int run_one(const NormSweep& sweep, const Sweep& cells, const Arguments& arguments) {
  return run_cell(cells, arguments.sweep, kWhereIdsStand, [&](std::size_t cell) {
    LocalizationSettings settings = settings_of(sweep, cell, arguments.how);
    const Device device = choose_device(settings);
    require_memory(memory_of(settings, LocalizationPhases::kAll), device);
    RunFolder folder(cells.folder(cell), to_json(settings), device, Resume::kAuto);
    if (done_already(cells, cell)) return;
    const Json summary = run_localization(settings, folder, device);
    if (sweep.axis->population) {
      settings = with_population(std::move(settings));
      RunFolder beside(folder.path() / kPopulation, to_json(settings), device, Resume::kAuto,
                       do_not_matter(), {{kGivenModel, std::string("../") + kModelFile}});
      run_localization(settings, beside, device, LocalizationPhases::kAll,
                       folder.file(kModelFile).string());
    }
    answer(answer_of(cells, cell), "{}: localization distance {}, interior slope {}\n",
           cells.ids[cell], summary["localization_distance"].dump(),
           three_digits(summary["interior_slope"]));
  });
}

int run(const Arguments& arguments) {
  const bool one = !arguments.sweep.cell.empty();
  require(!one || arguments.crew.empty(), "--jobs: has no effect with --cell");
  const NormSweep sweep = plan_of(arguments);
  const Sweep cells = cells_of(folder_of(arguments), sweep);
  const bool named = one && arguments.sweep.cell != kCellsToldOf;
  const std::size_t first = named ? cells.find(arguments.sweep.cell, kWhereIdsStand) : 0;
  // All that is refused is refused before the plan is written.
  LocalizationSettings settings = settings_of(sweep, first, arguments.how);
  const std::int64_t jobs = one ? 1 : arguments.crew.value("jobs", std::int64_t{0});
  Workforce force{worker_devices(settings.device, jobs, cells.size()),
                  choose_device(settings, true),  // who works there says why
                  memory_of(settings, LocalizationPhases::kAll)};
  if (arguments.check) return print_check(cells, force);
  require_memory(force.memory, force.device, force.at_once());
  write_plan(folder_of(arguments), sweep);
  if (one) return run_one(sweep, cells, arguments);
  const std::string failures = run_cells(cells, std::move(force), arguments.how);
  SC_CHECK(failures.empty(), "{}", failures);
  return answer({{"folder", cells.path.string()}, {"cells", cells.size()}},
                "{}: all {} cells are finished; `groups collect` makes results.json\n",
                cells.path.string(), cells.size());
}

int plan(const Arguments& arguments) {
  const NormSweep sweep = plan_of(arguments);
  const std::filesystem::path folder = folder_of(arguments);
  if (arguments.check) {
    return answer_plan(folder, sweep.cells.size(),
                       memory_of(sweep.settings_of(0), LocalizationPhases::kAll));
  }
  write_plan(folder, sweep);
  return answer({{"folder", folder.string()}, {"cells", sweep.cells.size()}},
                "{}/plan.json: {} cells\n", folder.string(), sweep.cells.size());
}

int collect_results(const Arguments& arguments) {
  const NormSweep sweep = existing_plan(arguments);
  const std::filesystem::path path = folder_of(arguments);
  require(arguments.sweep.output != "-",
          "--output -: expected the name of a file; for standard output, --json");
  std::string where = arguments.sweep.output;
  Json results;
  if (where.empty()) {
    const std::filesystem::path file = path / "results.json";
    const auto write = [&] {
      results = collect(path, sweep);  // while nobody else does
      write_json(file, results);
    };
    const bool written =
        write_results("groups", file, write, "; --output FILE writes it elsewhere");
    where = (written ? file : path).string();
  }
  if (results.is_null()) results = collect(path, sweep);
  if (!arguments.sweep.output.empty()) {
    const std::string text = json_text(results, 2) + "\n";
    write_output(arguments.sweep.output, std::as_bytes(std::span(text)));
  }
  if (answers_in_json) return print_json({{"folder", path.string()}, {"results", results}});
  const SweepAxis& axis = *sweep.axis;
  say("{:>4}  seeds  distance  unbroken  interior slope  localized{}\n", axis.letter,
      axis.population ? "    loss  of the population: localized    loss" : "");
  const auto mean = [](const Json& row, const char* name, int digits) {
    const Json& value = row[name]["mean"];
    return value.is_number() ? fmt::format("{:.{}f}", value.get<double>(), digits) : "-";
  };
  for (const Json& row : results[fmt::format("by_{}", axis.name)]) {
    say("{:>4}  {:>5}  {:>8}  {:>8}  {:>14}  {:>9}", row[axis.name].get<std::int64_t>(),
        row["seeds"].get<std::int64_t>(), mean(row, "localization_distance", 1),
        mean(row, "unbroken_distance", 1), mean(row, "interior_slope", 3),
        mean(row, "localized_fraction", 3));
    if (axis.population) {
      say("  {:>6}  {:>28}  {:>6}", mean(row, "final_loss", 4),
          mean(row[kPopulation], "localized_fraction", 3), mean(row[kPopulation], "final_loss", 4));
    }
    say("\n");
  }
  for (const Json& cell : results["cells"]) {
    if (cell["notice"].is_string()) {
      say("{}: {}\n", cell["id"].get<std::string>(), cell["notice"].get<std::string>());
    }
  }
  say("{}: {} of {} cells\n", where, results["finished"].get<std::int64_t>(),
      results["planned"].get<std::int64_t>());
  return 0;
}

// What stands between commas, each as the flag of one setting says.
Json list_of(const Setting& setting, const std::string& flag, const std::string& text) {
  Json list = Json::array();
  for (const std::string& part : split(text, ',')) list.push_back(read_flag(setting, flag, part));
  return list;
}

// The list under a name in a preset, as a flag takes it.
std::string list_in_preset(const SweepAxis& axis, const std::string& preset, const char* name) {
  const Json all = read_preset(axis.experiment, preset);
  std::vector<std::string> values;
  for (const Json& value : all.at(name)) values.push_back(value.dump());
  return fmt::format("{}", fmt::join(values, ","));
}

// What the presets say of the sweep over groups, and each axis of its own values.
Defaults defaults_of_groups() {
  Defaults defaults;
  for (const std::string& preset : preset_names(kGroups.experiment)) {
    Json settings = plan_sweep(preset).settings;
    for (const SweepAxis& axis : kSweepAxes) {
      settings[axis.name] = list_in_preset(axis, preset, axis.name);
    }
    settings["learning_rates"] = list_in_preset(kGroups, preset, "learning_rates");
    settings["seeds"] = read_preset(kGroups.experiment, preset).at("seeds");
    defaults.emplace_back(preset, std::move(settings));
  }
  return defaults;
}

void add_plan_flags(CLI::App& app, Arguments& arguments, const Defaults& defaults) {
  add_preset_flag(app, arguments.preset);
  for (const auto& [name, of, help] :
       {std::tuple{"groups", "groups", "numbers of groups G: 1,2,4"},
        {"samples_per_set", "samples_per_set", "samples that share statistics: 1,4,32"},
        {"learning_rates", "learning_rate", "learning rates: 1e-3,2e-3"}}) {
    const Setting setting = settings_named<LocalizationSettings>({of}).front();
    app.add_option_function<std::string>(
           flag_of(name),
           [&arguments, name = name, setting](const std::string& text) {
             arguments.given[name] = list_of(setting, flag_of(name), text);
           },
           help)
        ->take_last()
        ->type_name("N,N,...")
        ->default_str(default_text(name, defaults))
        ->group(kCellsSection);
  }
  Setting seeds{"seeds", "how many, from 0", Whole{1, kMostCells}};
  seeds.section = kCellsSection;
  add_setting_flags(app, {seeds}, arguments.given, defaults);
  const std::vector<Setting> shared =
      settings_that<LocalizationSettings>([](const Setting& setting) {
        return !setting.how && std::ranges::none_of(kSweepAxes, [&](const SweepAxis& axis) {
          const std::vector<std::string> names = not_shared(axis);
          return std::ranges::find(names, setting.name) != names.end();
        });
      });
  add_setting_flags(app, shared, arguments.given, defaults);
}

int main_program(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{
      "Localization with GroupNorm for every number of groups, seed and learning rate (the paper's "
      "Figure 4),\nor with BatchNorm for every number of samples that share its statistics "
      "(Section "
      "3.3).\nA sweep is a folder of independent cells: any number of processes may work on "
      "it at once, be killed and go on.",
      "groups"};
  app.require_subcommand(1);
  CLI::App* plan_command = app.add_subcommand("plan", "write plan.json, the list of cells");
  CLI::App* run_command =
      app.add_subcommand("run", "do what is left of the sweep (or one cell); plans it if need be");
  CLI::App* status_command = app.add_subcommand("status", "how far the sweep is, and what failed");
  CLI::App* collect_command =
      app.add_subcommand("collect", "results.json from the cells that are finished");
  for (CLI::App* command : {plan_command, run_command, status_command, collect_command}) {
    add_text_flag(*command, "--out", arguments.out, "FOLDER", "of the sweep")
        ->default_str("runs/PRESET-groups, or -crosstalk");
    add_setting_flags(*command,
                      {{"over",
                        "groups, of GroupNorm; samples_per_set, of BatchNorm, with presets of its "
                        "own",
                        OneOf{sweep_axis_names()}}},
                      arguments.over, {{"", Json::object({{"over", kGroups.name}})}});
  }
  const Defaults defaults = defaults_of_groups();
  for (CLI::App* command : {plan_command, run_command}) {
    add_plan_flags(*command, arguments, defaults);
    add_check_flag(*command, arguments.check);
  }
  for (CLI::App* command : {status_command, collect_command}) {
    add_preset_flag(*command, arguments.preset, "whose default folder to look in");
  }
  add_text_flag(*collect_command, "--output", arguments.sweep.output, "FILE",
                "where to write instead of results.json in the sweep");
  add_cell_flag(*run_command, arguments.sweep);
  std::vector<Setting> how =
      settings_that<LocalizationSettings>([](const Setting& s) { return s.how; });
  Setting jobs{
      "jobs",
      "cells at once, 0 for one for each core, or GPU; they share --threads, and --device cuda "
      "spreads them over the GPUs, several on one side by side",
      Whole{0, kMostThreads}};
  jobs.section = how.front().section;
  add_setting_flags(*run_command, {jobs}, arguments.crew);
  add_setting_flags(*run_command, how, arguments.how, defaults_of<LocalizationSettings>());
  add_unfinished_flag(*status_command, arguments.sweep);
  add_examples(app, {"groups run --preset demo", "groups collect --preset demo",
                     "groups run --over samples_per_set --preset demo", "groups run --help"});
  add_examples(*plan_command, {"groups plan --preset paper --check",
                               "groups plan --groups 1,8,32 --seeds 2 --learning-rates 1e-3,2e-3 "
                               "--steps 2000 --out runs/three-groups"});
  add_examples(*run_command, {"groups run --preset small --out runs/groups",
                              "groups run --over samples_per_set --samples-per-set 1,32 --seeds 1 "
                              "--jobs 2 --out runs/two-sets",
                              "groups run --out /shared/groups --cell 0"});
  add_examples(*status_command,
               {"groups status --out runs/groups", "groups status --out runs/groups --json"});
  add_examples(*collect_command, {"groups collect --out runs/groups",
                                  "groups collect --out /shared/groups --output results.json"});
  if (const std::optional<int> code = parse(app, argc, argv)) return *code;
  if (*run_command) return run(arguments);
  if (*status_command) {
    return print_status(cells_of(folder_of(arguments), existing_plan(arguments)), arguments.sweep);
  }
  if (*collect_command) return collect_results(arguments);
  return plan(arguments);
}

}  // namespace
}  // namespace sidechannel::experiments

int main(int argc, char** argv) {
  using namespace sidechannel::experiments;
  return run_main("groups", main_program, argc, argv);
}
