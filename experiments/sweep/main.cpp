// Sweeps: many independent runs of a program, one for each combination of values of its settings,
// on one machine or on many. Two have presets of their own: the paper's Figure 4, how far GroupNorm
// carries positions by its number of groups, and Section 3.3's crosstalk, how far BatchNorm does by
// the samples that share its statistics.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <optional>
#include <set>
#include <span>
#include <string>

#include "engine/io/output_file.h"
#include "engine/say.h"
#include "experiments/run/help.h"
#include "experiments/run/program.h"
#include "experiments/run/sweep_commands.h"
#include "experiments/sweep/collect.h"
#include "experiments/sweep/plan.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWhereIdsStand = "in plan.json";

struct Arguments {
  SweepRequest request;
  std::string out;
  Json how = Json::object();   // of this call
  Json crew = Json::object();  // of this call: how many work
  SweepFlags sweep;
  std::string csv;
  std::string choose;
  bool check = false;
};

// "runs/small-groups" for groups/small.
fs::path folder_of(const Arguments& arguments) {
  if (!arguments.out.empty()) return arguments.out;
  const std::string& preset = arguments.request.preset;
  if (!arguments.request.program.empty()) {
    return default_folder(preset.empty() ? "demo" : preset, arguments.request.program + "-sweep");
  }
  require(!preset.empty(), "expected --out, or the --preset or --program of the sweep");
  const std::string name = preset.ends_with(".json") ? "" : fs::path(preset).parent_path().string();
  return default_folder(preset, name.empty() ? "sweep" : name);
}

// The plan in the folder, or the one that would be made; `arguments` must not ask for another one
// than is there. Nothing is written.
SweepPlan plan_of(const Arguments& arguments) {
  if (arguments.request.empty() && !arguments.out.empty() && has_plan(arguments.out)) {
    return read_plan(arguments.out);
  }
  SweepPlan plan = plan_sweep(arguments.request);
  const fs::path path = folder_of(arguments);
  require_folder_for(path, plan);
  return has_plan(path) ? read_plan(path) : plan;
}

SweepPlan existing_plan(const Arguments& arguments) {
  require(arguments.out.empty() || arguments.request.empty(),
          "--out: names the sweep, where neither --program nor --preset has an effect");
  require_plan(folder_of(arguments), "sweep", kPlanFile);
  return read_plan(folder_of(arguments));
}

// That of cells first .. last - 1, in whatever precision they ask for.
Device device_for(const SweepPlan& plan, std::size_t first, std::size_t last, const Json& how) {
  std::set<std::string> precisions;
  for (std::size_t cell = first; cell < last; ++cell) {
    precisions.insert(plan.settings_of(cell).value("precision", "auto"));
  }
  Device device = Device::cpu(1);
  for (const std::string& precision : precisions) {
    RunSettings settings;
    apply(how, "", settings);
    settings.precision = precision;
    device = choose_device(settings, true);  // who works there says why
  }
  return device;
}

int run_one(const SweepPlan& plan, const Sweep& cells, const Arguments& arguments) {
  return run_cell(cells, arguments.sweep, kWhereIdsStand, [&](std::size_t cell) {
    const std::string made =
        plan.program->make(plan.settings_of(cell), plan.preset, arguments.how, cells.folder(cell),
                           [&] { return done_already(cells, cell); });
    if (!made.empty()) answer(answer_of(cells, cell), "{}: {}\n", cells.ids[cell], made);
  });
}

int run(const Arguments& arguments) {
  const bool one = !arguments.sweep.cell.empty();
  require(!one || arguments.crew.empty(), "--jobs: has no effect with --cell");
  const SweepPlan plan = plan_of(arguments);
  const fs::path path = folder_of(arguments);
  const Sweep cells = cells_of(path, plan);
  const bool named = one && arguments.sweep.cell != kCellsToldOf;
  const std::size_t first = named ? cells.find(arguments.sweep.cell, kWhereIdsStand) : 0;
  const std::size_t last = named ? first + 1 : cells.size();
  // All that is refused is refused before the plan is written.
  const Json& how = arguments.how;
  const std::int64_t jobs = one ? 1 : arguments.crew.value("jobs", std::int64_t{0});
  Workforce force{
      worker_devices(how.value("device", "auto"), jobs, cells.size()),
      device_for(plan, first, last, how),
      named ? plan.program->memory(plan.settings_of(first), how) : memory_of(plan, how)};
  if (arguments.check) return print_check(cells, force);
  require_memory(force.memory, force.device, force.at_once());
  write_plan(path, plan);
  if (one) return run_one(plan, cells, arguments);
  const std::string failures = run_cells(cells, std::move(force), how);
  SC_CHECK(failures.empty(), "{}", failures);
  return answer({{"folder", path.string()}, {"cells", cells.size()}},
                "{}: all {} cells are finished; `sweep collect` makes results.json and cells.csv\n",
                path.string(), cells.size());
}

int make_plan(const Arguments& arguments) {
  const SweepPlan plan = plan_of(arguments);
  const fs::path folder = folder_of(arguments);
  if (arguments.check) {
    return answer_plan(folder, plan.cells.size(), memory_of(plan, Json::object()));
  }
  write_plan(folder, plan);
  return answer({{"folder", folder.string()}, {"cells", plan.cells.size()}},
                "{}/plan.json: {} cells\n", folder.string(), plan.cells.size());
}

// The rows' means of the measures that a table has room for, in columns.
void say_table(const SweepPlan& plan, const Json& results) {
  std::vector<std::vector<std::string>> lines(1);
  for (const Json& axis : results["by"]) lines[0].push_back(axis.get<std::string>());
  lines[0].emplace_back("seeds");
  for (const auto& [name, digits] : plan.program->headline()) lines[0].push_back(name);
  for (const Json& row : results["rows"]) {
    std::vector<std::string>& line = lines.emplace_back();
    for (const Json& axis : results["by"]) {
      line.push_back(flag_text(row[axis.get<std::string>()]));
    }
    line.push_back(row["seeds"].dump());
    for (const auto& [name, digits] : plan.program->headline()) {
      const Json mean = row.value(name, Json::object()).value("mean", Json());
      line.push_back(mean.is_number() ? fmt::format("{:.{}f}", mean.get<double>(), digits) : "-");
    }
  }
  for (const std::vector<std::string>& line : lines) {
    std::string text;
    for (std::size_t i = 0; i < line.size(); ++i) {
      std::size_t width = 0;
      for (const std::vector<std::string>& other : lines) width = std::max(width, other[i].size());
      text += fmt::format("{}{:>{}}", i == 0 ? "" : "  ", line[i], width);
    }
    say("{}\n", text);
  }
}

int collect_results(const Arguments& arguments) {
  const SweepPlan plan = existing_plan(arguments);
  const fs::path path = folder_of(arguments);
  const std::string& json = arguments.sweep.output;
  const std::string& csv = arguments.csv;
  require(json != "-", "--output -: expected the name of a file; for standard output, --json");
  require_apart("--output", json, {});
  require_apart("--csv", csv == "-" ? "" : csv, {});
  const auto place = [](const std::string& name) {
    return fs::weakly_canonical(fs::absolute(name));
  };
  require(json.empty() || csv.empty() || place(json) != place(csv),
          fmt::format("--csv {}: is that of --output, too", csv));
  require(csv != "-" || !answers_in_json, "--json: standard output is that of --csv -");
  std::string where = fmt::format("{}{}{}", json, json.empty() || csv.empty() ? "" : ", ", csv);
  Json results;
  if (where.empty()) {
    const fs::path file = path / "results.json";
    const auto write = [&] {
      results = collect(path, plan, arguments.choose);  // while nobody else does
      write_json(file, results);
      const std::string table = to_csv(results);
      write_file_durably(path / "cells.csv", std::as_bytes(std::span(table)));
    };
    const bool written =
        write_results("sweep", file, write, "; --output FILE and --csv FILE write elsewhere");
    where = (written ? file : path).string();
  }
  if (results.is_null()) results = collect(path, plan, arguments.choose);
  if (!json.empty()) {
    const std::string text = json_text(results, 2) + "\n";
    write_output(json, std::as_bytes(std::span(text)));
  }
  if (!csv.empty()) {
    const std::string table = to_csv(results);
    write_output(csv, std::as_bytes(std::span(table)));
  }
  if (csv == "-") return 0;
  if (answers_in_json) return print_json({{"folder", path.string()}, {"results", results}});
  say_table(plan, results);
  for (const Json& cell : results["cells"]) {
    if (cell["notice"].is_string()) {
      say("{}: {}\n", cell["id"].get<std::string>(), cell["notice"].get<std::string>());
    }
  }
  say("{}: {} of {} cells\n", where, results["finished"].get<std::int64_t>(),
      results["planned"].get<std::int64_t>());
  return 0;
}

// A flag that may stand there several times.
void add_list(CLI::App& app, const char* flag, std::vector<std::string>& texts, const char* form,
              const char* help) {
  app.add_option(flag, texts, help)->allow_extra_args(false)->type_name(form)->group("Cells");
}

int main_program(int argc, char** argv) {
  Arguments arguments;
  SweepRequest& request = arguments.request;
  CLI::App app{
      "Runs a program once for each combination of values of its settings. A sweep is a folder of "
      "independent\ncells: any number of processes may work on it at once, be killed and go on.",
      "sweep"};
  app.require_subcommand(1);
  CLI::App* plan_command = app.add_subcommand("plan", "write plan.json, the list of cells");
  CLI::App* run_command =
      app.add_subcommand("run", "do what is left of the sweep (or one cell); plans it if need be");
  CLI::App* status_command = app.add_subcommand("status", "how far the sweep is, and what failed");
  CLI::App* collect_command =
      app.add_subcommand("collect", "results.json and cells.csv from the cells that are finished");
  for (CLI::App* command : {plan_command, run_command, status_command, collect_command}) {
    add_text_flag(*command, "--out", arguments.out, "FOLDER", "of the sweep")
        ->default_str("runs/PRESET-PROGRAM-sweep, or runs/small-groups of groups/small");
    add_text_flag(*command, "--program", request.program, "localization|overlap|diffusion",
                  "whose runs they are");
    add_text_flag(*command, "--preset", request.preset, "PRESET",
                  "of the program: demo (the default), small, paper or a JSON file; without "
                  "--program of a sweep: groups/small, crosstalk/demo and so on, or a file");
  }
  for (CLI::App* command : {plan_command, run_command}) {
    add_list(*command, "--over", request.over, "NAME=VALUES",
             "a setting and its values: norm=instance,group or seed=0..4 or length=64..256:64; one "
             "--over for each");
    add_list(*command, "--set", request.set, "NAME=VALUE",
             "a setting of all cells, instead of the preset's; one --set for each");
    command
        ->add_flag("--population", request.population,
                   "evaluate each network with its population statistics, too (localization)")
        ->group("Cells");
    add_check_flag(*command, arguments.check);
  }
  add_text_flag(*collect_command, "--output", arguments.sweep.output, "FILE",
                "where to write what else would be results.json; then the sweep stays as it is");
  add_text_flag(*collect_command, "--csv", arguments.csv, "FILE",
                "likewise what else would be cells.csv; - for standard output, without the table");
  add_text_flag(*collect_command, "--choose", arguments.choose, "AXIS=MEASURES",
                "the cell that stands for those of other values on an axis, by measures: "
                "learning_rate=max:localized_fraction,min:final_loss")
      ->default_str("the preset's");
  add_cell_flag(*run_command, arguments.sweep);
  std::vector<Setting> how = settings_that<RunSettings>([](const Setting& s) { return s.how; });
  Setting jobs{
      "jobs",
      "cells at once, 0 for one for each core, or GPU; they share --threads, and --device cuda "
      "spreads them over the GPUs, several on one side by side",
      Whole{0, kMostThreads}};
  jobs.section = how.front().section;
  add_setting_flags(*run_command, {jobs}, arguments.crew, {{"", {{"jobs", 0}}}});
  add_setting_flags(*run_command, how, arguments.how, {{"", to_json(RunSettings())}});
  add_unfinished_flag(*status_command, arguments.sweep);
  add_examples(app, {"sweep run --program localization --over norm=instance,group --over seed=0..4",
                     "sweep run --preset groups/demo", "sweep collect --preset groups/demo",
                     "sweep run --help"});
  add_examples(*plan_command,
               {"sweep plan --preset groups/paper --check",
                "sweep plan --program localization --preset small --over depth=4,8,12 "
                "--over seed=0..4 --set iterations=2000 --out runs/depths"});
  add_examples(*run_command,
               {"sweep run --preset groups/small --out runs/groups",
                "sweep run --program overlap --over overlap=0..33:3 --over channels=16,32 --jobs 2",
                "sweep run --program diffusion --over norm=group,position --over seed=0..2 "
                "--set iterations=2000 --out runs/planners",
                "sweep run --preset groups/small --out /shared/groups --cell 0"});
  add_examples(*status_command,
               {"sweep status --out runs/groups", "sweep status --out runs/groups --json"});
  add_examples(*collect_command, {"sweep collect --out runs/groups",
                                  "sweep collect --out runs/groups --choose "
                                  "learning_rate=max:localized_fraction --csv cells.csv"});
  if (const std::optional<int> code = parse(app, argc, argv)) return *code;
  if (*run_command) return run(arguments);
  if (*status_command) {
    return print_status(cells_of(folder_of(arguments), existing_plan(arguments)), arguments.sweep);
  }
  if (*collect_command) return collect_results(arguments);
  return make_plan(arguments);
}

}  // namespace
}  // namespace sidechannel::experiments

int main(int argc, char** argv) {
  using namespace sidechannel::experiments;
  return run_main("sweep", main_program, argc, argv);
}
