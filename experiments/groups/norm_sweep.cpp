#include "experiments/groups/norm_sweep.h"

#include <algorithm>
#include <climits>
#include <set>

#include "engine/say.h"
#include "experiments/run/run_folder.h"
#include "experiments/run/summary.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

// The list under `name`, of values that localization's `setting` may have.
template <class T>
std::vector<T> list(const Json& json, const std::string& source, const char* name,
                    const char* setting, T LocalizationSettings::*member) {
  const Json values = json.value(name, Json());
  require(values.is_array() && !values.empty() && values.size() <= kMostCells,
          fmt::format("{}: {} is {}, expected a list of 1 to {} numbers", source, name,
                      in_words(values), kMostCells));
  std::vector<T> result;
  for (const Json& value : values) {
    LocalizationSettings one;
    apply(Json::object({{setting, value}}), fmt::format("{}: {}", source, name), one);
    result.push_back(one.*member);
  }
  std::vector<T> sorted = result;
  std::ranges::sort(sorted);
  const auto twice = std::ranges::adjacent_find(sorted);
  require(twice == sorted.end(),
          fmt::format("{}: {} names {} twice", source, name, twice == sorted.end() ? T() : *twice));
  return result;
}

void refuse_what_is_not_for_plans(const Json& settings, const SweepAxis& axis,
                                  const std::string& source) {
  for (const std::string& name : not_shared(axis)) {
    require(!settings.contains(name),
            fmt::format("{}: {} is not for a sweep to set", source, name));
  }
}

Json to_json(const NormSweep& sweep) {
  Json cells = Json::array();
  for (const NormSweep::Cell& cell : sweep.cells) {
    cells.push_back({{"id", cell.id},
                     {sweep.axis->name, cell.value},
                     {"seed", cell.seed},
                     {"learning_rate", cell.learning_rate}});
  }
  return {{"experiment", sweep.axis->experiment},
          {"preset", sweep.preset},
          {"settings", sweep.settings},
          {"cells", std::move(cells)}};
}

}  // namespace

std::vector<const char*> sweep_axis_names() {
  std::vector<const char*> names;
  for (const SweepAxis& axis : kSweepAxes) names.push_back(axis.name);
  return names;
}

const SweepAxis& sweep_axis_named(const std::string& name) {
  return *std::ranges::find(kSweepAxes, name, &SweepAxis::name);
}

LocalizationSettings with_population(LocalizationSettings settings) {
  settings.eval_statistics = kPopulation;
  return settings;
}

std::vector<std::string> not_shared(const SweepAxis& axis) {
  std::vector<std::string> names = {"norm", axis.name, "seed", "learning_rate"};
  if (axis.population) names.emplace_back("eval_statistics");
  for (const std::string& name : do_not_matter()) names.push_back(name);
  return names;
}

LocalizationSettings NormSweep::settings_of(std::size_t cell) const {
  LocalizationSettings result;
  result.preset = preset;
  result.norm = axis->norm;
  apply(settings, kPlanFile, result);
  result.*axis->member = cells[cell].value;
  result.seed = cells[cell].seed;
  result.learning_rate = cells[cell].learning_rate;
  return result;
}

NormSweep plan_sweep(const std::string& preset, const Json& given, const SweepAxis& axis) {
  Json all = read_preset(axis.experiment, preset);
  all.update(given);
  const auto values = list(all, preset, axis.name, axis.name, axis.member);
  const auto rates =
      list(all, preset, "learning_rates", "learning_rate", &LocalizationSettings::learning_rate);
  const Whole some{1, kMostCells};
  const Json of_seeds = all.value("seeds", Json());
  const std::int64_t seeds = value_of<std::int64_t>(of_seeds).value_or(0);
  require(some.holds(seeds),
          fmt::format("{}: seeds is {}, expected {}", preset, in_words(of_seeds), some.words()));
  const auto each = static_cast<std::int64_t>(values.size() * rates.size());  // at most 10^8
  require(each * seeds <= kMostCells,
          fmt::format("a sweep of {} {}, {} learning rates and {} seeds has {} cells, expected at "
                      "most {} ({}, --learning-rates, --seeds)",
                      values.size(), axis.name, rates.size(), seeds, each * seeds, kMostCells,
                      flag_of(axis.name)));
  for (const char* name : {axis.name, "seeds", "learning_rates"}) all.erase(name);
  refuse_what_is_not_for_plans(all, axis, preset);
  LocalizationSettings shared;
  shared.norm = axis.norm;
  apply(all, preset, shared);
  check_effects(given, shared);

  NormSweep sweep;
  sweep.axis = &axis;
  sweep.preset = preset;
  sweep.settings = to_json(shared);
  for (const std::string& name : not_shared(axis)) sweep.settings.erase(name);
  for (std::int64_t seed = 0; seed < seeds; ++seed) {
    for (const double rate : rates) {
      for (const std::int64_t value : values) {
        sweep.cells.push_back(
            {fmt::format("{}{}-seed{}-lr{}", axis.letter, value, seed, rate), value, seed, rate});
        sweep.settings_of(sweep.cells.size() - 1).check();
      }
    }
  }
  return sweep;
}

void require_folder_for(const fs::path& path, const NormSweep& sweep) {
  require(!fs::exists(path / kConfigFile),
          fmt::format("{} holds a run, not a sweep; choose another --out", path.string()));
  if (has_plan(path)) {
    const Json json = to_json(sweep);
    read_plan(path);  // refuses what is no plan
    const Json theirs = read_json(path / kPlanFile);
    require(theirs["experiment"] == json["experiment"],
            fmt::format("{} holds a sweep over {}, not {}; choose another --out", path.string(),
                        read_plan(path).axis->name, sweep.axis->name));
    const Json& settings = theirs["settings"];
    const std::vector<std::string> names = differences(json["settings"], settings);
    if (!names.empty()) {
      throw UsageError(
          fmt::format("{} holds a sweep with other settings ({} is {} there, {} here); choose "
                      "another --out",
                      path.string(), names.front(), in_words(settings.value(names.front(), Json())),
                      in_words(json["settings"][names.front()])));
    }
    require(theirs["cells"] == json["cells"],
            fmt::format("{} holds a sweep of other {}, seeds or learning rates; choose another "
                        "--out",
                        path.string(), sweep.axis->name));
  }
}

void write_plan(const fs::path& path, const NormSweep& sweep) {
  require_folder_for(path, sweep);
  const FolderLock lock = locked(path);
  require_folder_for(path, sweep);  // nobody changes it from here on
  if (!has_plan(path)) write_json(path / kPlanFile, to_json(sweep));
}

bool has_plan(const fs::path& path) {
  return fs::exists(path / kPlanFile);
}

NormSweep read_plan(const fs::path& path) {
  const std::string source = (path / kPlanFile).string();
  const Json json = read_json(path / kPlanFile);
  const auto experiment = field<std::string>(json, "experiment", source);
  const auto axis = std::ranges::find(kSweepAxes, experiment, &SweepAxis::experiment);
  SC_CHECK(axis != kSweepAxes.end(), "{}: not a plan of groups but of {}", source, experiment);
  NormSweep sweep;
  sweep.axis = &*axis;
  sweep.preset = field<std::string>(json, "preset", source);
  sweep.settings = object_member(json, "settings", source);
  refuse_what_is_not_for_plans(sweep.settings, *axis, source);
  const Json& cells = list_member(json, "cells", source);
  SC_CHECK(!cells.empty(), "{}: \"cells\" is an empty list, expected at least one cell", source);
  std::set<std::string> ids;
  for (const Json& cell : cells) {
    const std::string where = fmt::format("{}: cell {}", source, sweep.cells.size());
    const auto id = field<std::string>(cell, "id", where);
    // The ids name folders: nothing that leads elsewhere or is too long for one.
    SC_CHECK(!id.empty() && id.size() <= NAME_MAX && id.front() != '.' && id.find('/') == id.npos &&
                 id.find('\0') == id.npos,
             "{}: \"id\" is {}, which is no name for a folder", where, in_quotes(id));
    SC_CHECK(ids.insert(id).second, "{}: there are two of the id {}", where, in_quotes(id));
    sweep.cells.push_back({id, field<std::int64_t>(cell, axis->name, where, 1),
                           field<std::int64_t>(cell, "seed", where, 0),
                           field<double>(cell, "learning_rate", where)});
    in_context(where, [&] { sweep.settings_of(sweep.cells.size() - 1).check(); });
  }
  return sweep;
}

Sweep cells_of(const fs::path& path, const NormSweep& plan) {
  std::vector<std::string> ids;
  for (const NormSweep::Cell& cell : plan.cells) ids.push_back(cell.id);
  const fs::path folder = path / "cells";
  const auto settings_for = [](const LocalizationSettings& of) {
    Json settings = to_json(of);
    // What the device computes in is known when it works.
    if (settings["precision"] == "auto") settings.erase("precision");
    return settings;
  };
  return {.path = path,
          .program = "groups",
          .cells = folder,
          .ids = ids,
          .settings = [=](std::size_t cell) { return settings_for(plan.settings_of(cell)); },
          .results = "summary.json",
          .has_results =
              [=](std::size_t cell) {
                const fs::path own = folder / ids[cell];
                const auto beside = [&] {
                  return has_summary(own / kPopulation) &&
                         holds_run_of(own / kPopulation,
                                      settings_for(with_population(plan.settings_of(cell))));
                };
                return has_summary(own) && (!plan.axis->population || beside());
              }};
}

}  // namespace sidechannel::experiments
