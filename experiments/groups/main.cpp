// The sweep behind the paper's Figure 4: how far GroupNorm carries positions, by its number of
// groups. Many independent runs of the localization experiment, on one machine or on many.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <span>
#include <string>

#include "engine/io/output_file.h"
#include "engine/say.h"
#include "experiments/groups/group_sweep.h"
#include "experiments/localization/localize.h"
#include "experiments/localization/memory.h"
#include "experiments/run/program.h"
#include "experiments/run/sweep_commands.h"

namespace sidechannel::experiments {
namespace {

constexpr const char* kWhereIdsStand = "in plan.json";

struct Arguments {
  std::string preset;
  std::string out;
  Json given = Json::object();  // of the plan
  Json how = Json::object();    // of this call
  Json crew = Json::object();   // of this call: how many work
  SweepFlags sweep;
  bool check = false;
};

std::string preset_of(const Arguments& arguments) {
  return arguments.preset.empty() ? "demo" : arguments.preset;
}

std::filesystem::path folder_of(const Arguments& arguments) {
  if (!arguments.out.empty()) return arguments.out;
  return default_folder(preset_of(arguments), "groups");
}

// The plan in the folder, or the one that would be made; `arguments` must not ask for another one
// than is there. Nothing is written.
GroupSweep plan_of(const Arguments& arguments) {
  const std::filesystem::path path = folder_of(arguments);
  const bool asks = !arguments.preset.empty() || !arguments.given.empty();
  if (has_plan(path) && !asks) return read_plan(path);
  GroupSweep sweep = plan_groups(preset_of(arguments), arguments.given);
  require_folder_for(path, sweep);
  return has_plan(path) ? read_plan(path) : sweep;
}

GroupSweep existing_plan(const Arguments& arguments) {
  require_plan(folder_of(arguments), "groups", kPlanFile);
  return read_plan(folder_of(arguments));
}

LocalizationSettings settings_of(const GroupSweep& sweep, std::size_t cell, const Json& how) {
  LocalizationSettings settings = sweep.settings_of(cell);
  apply(how, "", settings);
  settings.check();
  return settings;
}

int run_one(const GroupSweep& sweep, const Sweep& cells, const Arguments& arguments) {
  return run_cell(cells, arguments.sweep, kWhereIdsStand, [&](std::size_t cell) {
    LocalizationSettings settings = settings_of(sweep, cell, arguments.how);
    const Device device = choose_device(settings);
    require_memory(memory_of(settings, LocalizationPhases::kAll), device);
    RunFolder folder(cells.folder(cell), to_json(settings), device, Resume::kAuto);
    if (done_already(cells, cell)) return;
    const Json summary = run_localization(settings, folder, device);
    say("{}: localization distance {}, interior slope {}\n", cells.ids[cell],
        summary["localization_distance"].dump(), three_digits(summary["interior_slope"]));
  });
}

int run(const Arguments& arguments) {
  const bool one = !arguments.sweep.cell.empty();
  require(!one || arguments.crew.empty(), "--jobs: has no effect with --cell");
  const GroupSweep sweep = plan_of(arguments);
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
  say("{}: all {} cells are finished; `groups collect` makes results.json\n", cells.path.string(),
      cells.size());
  return 0;
}

int plan(const Arguments& arguments) {
  const GroupSweep sweep = plan_of(arguments);
  if (arguments.check) {
    const LocalizationSettings settings = sweep.settings_of(0);
    say("{} cells; {} each\n", sweep.cells.size(),
        checked_memory(memory_of(settings, LocalizationPhases::kAll), false));
    return 0;
  }
  write_plan(folder_of(arguments), sweep);
  say("{}/plan.json: {} cells\n", folder_of(arguments).string(), sweep.cells.size());
  return 0;
}

int collect_results(const Arguments& arguments) {
  const GroupSweep sweep = existing_plan(arguments);
  const std::filesystem::path path = folder_of(arguments);
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
  if (arguments.sweep.output == "-") return 0;
  say("   G  seeds  distance  interior slope  localized\n");
  const auto mean = [](const Json& row, const char* name, int digits) {
    const Json& value = row[name]["mean"];
    return value.is_number() ? fmt::format("{:.{}f}", value.get<double>(), digits) : "-";
  };
  for (const Json& row : results["by_groups"]) {
    say("{:>4}  {:>5}  {:>8}  {:>14}  {:>9}\n", row["groups"].get<std::int64_t>(),
        row["seeds"].get<std::int64_t>(), mean(row, "localization_distance", 1),
        mean(row, "interior_slope", 3), mean(row, "localized_fraction", 3));
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

void add_plan_flags(CLI::App& app, Arguments& arguments) {
  app.add_option("--preset", arguments.preset, "demo (the default), small, paper, or a JSON file");
  for (const auto& [name, of, help] :
       {std::tuple{"groups", "groups", "numbers of groups G: 1,2,4"},
        {"learning_rates", "learning_rate", "learning rates: 1e-3,2e-3"}}) {
    const Setting setting = settings_named<LocalizationSettings>({of}).front();
    app.add_option_function<std::string>(
           flag_of(name),
           [&arguments, name = name, setting](const std::string& text) {
             arguments.given[name] = list_of(setting, flag_of(name), text);
           },
           help)
        ->take_last()
        ->type_name("N,N,...");
  }
  add_setting_flags(app, {Setting{"seeds", "how many, from 0", Whole{1, kMostCells}}},
                    arguments.given);
  const std::vector<Setting> shared =
      settings_that<LocalizationSettings>([](const Setting& setting) {
        return !setting.how && std::ranges::find(kAxes, setting.name) == kAxes.end();
      });
  add_setting_flags(app, shared, arguments.given);
}

int main_program(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{
      "Localization with GroupNorm for every number of groups, seed and learning rate (the paper's "
      "Figure 4).\nA sweep is a folder of independent cells: any number of processes may work on "
      "it at once, be killed and go on."};
  app.require_subcommand(1);
  CLI::App* plan_command = app.add_subcommand("plan", "write plan.json, the list of cells");
  CLI::App* run_command =
      app.add_subcommand("run", "do what is left of the sweep (or one cell); plans it if need be");
  CLI::App* status_command = app.add_subcommand("status", "how far the sweep is, and what failed");
  CLI::App* collect_command =
      app.add_subcommand("collect", "results.json from the cells that are finished");
  for (CLI::App* command : {plan_command, run_command, status_command, collect_command}) {
    command->add_option("--out", arguments.out,
                        "folder of the sweep (default: runs/PRESET-groups)");
  }
  for (CLI::App* command : {plan_command, run_command}) {
    add_plan_flags(*command, arguments);
    add_check_flag(*command, arguments.check);
  }
  for (CLI::App* command : {status_command, collect_command}) {
    command->add_option("--preset", arguments.preset, "whose default folder to look in");
  }
  collect_command->add_option("--output", arguments.sweep.output,
                              "where to write instead of results.json in the sweep; - for standard "
                              "output, without the table");
  add_cell_flag(*run_command, arguments.sweep);
  add_setting_flags(
      *run_command,
      {{"jobs",
        "cells at once, 0 for one for each core, or GPU; they share --threads, and --device cuda "
        "spreads them over the GPUs, several on one side by side",
        Whole{0, kMostThreads}}},
      arguments.crew);
  add_setting_flags(*run_command,
                    settings_that<LocalizationSettings>([](const Setting& s) { return s.how; }),
                    arguments.how);
  add_unfinished_flag(*status_command, arguments.sweep);
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
