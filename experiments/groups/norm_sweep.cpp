#include "experiments/groups/group_sweep.h"

#include <algorithm>
#include <climits>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "engine/say.h"
#include "experiments/run/run_folder.h"
#include "experiments/run/summary.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

// By which cells are judged, as collect() names them.
const std::vector<std::string> kMeasures = {"localization_distance", "interior_slope",
                                            "localized_fraction", "interior_localized_fraction"};

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

// The measures in a finished cell's summary. Error where one is missing, or the predictions were
// not finite: then its loss is none, and whatever it says it has localized does not count.
Json measures(const Json& summary, const std::string& source) {
  Json result;
  for (const std::string& name : kMeasures) {
    SC_CHECK(summary.contains(name), "{}: has no {}", source, name);
    const Json& value = summary[name];
    result[name] = value.is_array() ? value.back() : value;  // of all layers, the output's
  }
  SC_CHECK(summary.value("final_loss", Json()).is_number(), "{}: its predictions are not finite",
           source);
  return result;
}

// Whether the cell with these measures is the better one. Not by the distance: a network that
// localizes nothing of the interior differs in it from others by the few noisy indices around R
// alone.
bool better(const Json& a, const Json& b) {
  const auto rank = [](const Json& of) {
    constexpr double kWorst = -std::numeric_limits<double>::infinity();
    return std::pair(number_or(of.at("localized_fraction"), kWorst),
                     number_or(of.at("interior_slope"), kWorst));
  };
  return rank(a) > rank(b);
}

Json mean_and_deviation(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {{"mean", finite_or_null(mean)},
          {"deviation", n > 1 ? finite_or_null(std::sqrt(squares / (n - 1))) : Json()}};
}

// The axes of a sweep, and what each `run` says for itself.
std::vector<std::string> not_shared() {
  std::vector<std::string> names = kAxes;
  for (const std::string& name : do_not_matter()) names.push_back(name);
  return names;
}

void refuse_what_is_not_for_plans(const Json& settings, const std::string& source) {
  for (const std::string& name : not_shared()) {
    require(!settings.contains(name),
            fmt::format("{}: {} is not for a sweep to set", source, name));
  }
}

// Ranks from 1; equal values share the mean of theirs.
std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<double> result;
  for (const double value : values) {
    const auto below = std::ranges::count_if(values, [&](double v) { return v < value; });
    const auto equal = std::ranges::count(values, value);
    result.push_back(static_cast<double>(below) + static_cast<double>(equal + 1) / 2);
  }
  return result;
}

Json to_json(const GroupSweep& sweep) {
  Json cells = Json::array();
  for (const GroupSweep::Cell& cell : sweep.cells) {
    cells.push_back({{"id", cell.id},
                     {"groups", cell.groups},
                     {"seed", cell.seed},
                     {"learning_rate", cell.learning_rate}});
  }
  return {{"experiment", "groups"},
          {"preset", sweep.preset},
          {"settings", sweep.settings},
          {"cells", std::move(cells)}};
}

}  // namespace

LocalizationSettings GroupSweep::settings_of(std::size_t cell) const {
  LocalizationSettings result;
  result.preset = preset;
  result.norm = "group";
  apply(settings, kPlanFile, result);
  result.groups = cells[cell].groups;
  result.seed = cells[cell].seed;
  result.learning_rate = cells[cell].learning_rate;
  return result;
}

GroupSweep plan_groups(const std::string& preset, const Json& given) {
  Json all = read_preset("groups", preset);
  all.update(given);
  const auto groups = list(all, preset, "groups", "groups", &LocalizationSettings::groups);
  const auto rates =
      list(all, preset, "learning_rates", "learning_rate", &LocalizationSettings::learning_rate);
  const Whole some{1, kMostCells};
  const Json of_seeds = all.value("seeds", Json());
  const std::int64_t seeds = value_of<std::int64_t>(of_seeds).value_or(0);
  require(some.holds(seeds),
          fmt::format("{}: seeds is {}, expected {}", preset, in_words(of_seeds), some.words()));
  const auto each = static_cast<std::int64_t>(groups.size() * rates.size());  // at most 10^8
  require(
      each * seeds <= kMostCells,
      fmt::format("a sweep of {} groups, {} learning rates and {} seeds has {} cells, expected at "
                  "most {} (--groups, --learning-rates, --seeds)",
                  groups.size(), rates.size(), seeds, each * seeds, kMostCells));
  for (const char* name : {"groups", "seeds", "learning_rates"}) all.erase(name);
  refuse_what_is_not_for_plans(all, preset);
  LocalizationSettings shared;
  shared.norm = "group";
  apply(all, preset, shared);
  check_effects(given, shared);

  GroupSweep sweep;
  sweep.preset = preset;
  sweep.settings = to_json(shared);
  for (const std::string& name : not_shared()) sweep.settings.erase(name);
  for (std::int64_t seed = 0; seed < seeds; ++seed) {
    for (const double rate : rates) {
      for (const std::int64_t g : groups) {
        sweep.cells.push_back({fmt::format("G{}-seed{}-lr{}", g, seed, rate), g, seed, rate});
        sweep.settings_of(sweep.cells.size() - 1).check();
      }
    }
  }
  return sweep;
}

void require_folder_for(const fs::path& path, const GroupSweep& sweep) {
  require(!fs::exists(path / kConfigFile),
          fmt::format("{} holds a run, not a sweep; choose another --out", path.string()));
  if (has_plan(path)) {
    const Json json = to_json(sweep);
    read_plan(path);  // refuses what is no plan
    const Json theirs = read_json(path / kPlanFile);
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
            fmt::format("{} holds a sweep of other groups, seeds or learning rates; choose another "
                        "--out",
                        path.string()));
  }
}

void write_plan(const fs::path& path, const GroupSweep& sweep) {
  require_folder_for(path, sweep);
  const FolderLock lock = locked(path);
  require_folder_for(path, sweep);  // nobody changes it from here on
  if (!has_plan(path)) write_json(path / kPlanFile, to_json(sweep));
}

bool has_plan(const fs::path& path) {
  return fs::exists(path / kPlanFile);
}

GroupSweep read_plan(const fs::path& path) {
  const std::string source = (path / kPlanFile).string();
  const Json json = read_json(path / kPlanFile);
  const auto experiment = field<std::string>(json, "experiment", source);
  SC_CHECK(experiment == "groups", "{}: not a plan of groups but of {}", source, experiment);
  GroupSweep sweep;
  sweep.preset = field<std::string>(json, "preset", source);
  sweep.settings = object_member(json, "settings", source);
  refuse_what_is_not_for_plans(sweep.settings, source);
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
    sweep.cells.push_back({id, field<std::int64_t>(cell, "groups", where, 1),
                           field<std::int64_t>(cell, "seed", where, 0),
                           field<double>(cell, "learning_rate", where)});
    in_context(where, [&] { sweep.settings_of(sweep.cells.size() - 1).check(); });
  }
  return sweep;
}

Sweep cells_of(const fs::path& path, const GroupSweep& plan) {
  std::vector<std::string> ids;
  for (const GroupSweep::Cell& cell : plan.cells) ids.push_back(cell.id);
  const fs::path folder = path / "cells";
  return {.path = path,
          .program = "groups",
          .cells = folder,
          .ids = ids,
          .settings =
              [plan](std::size_t cell) {
                Json settings = to_json(plan.settings_of(cell));
                // What the device computes in is known when it works.
                if (settings["precision"] == "auto") settings.erase("precision");
                return settings;
              },
          .results = "summary.json",
          .has_results = [=](std::size_t cell) { return has_summary(folder / ids[cell]); }};
}

double spearman(const std::vector<double>& x, const std::vector<double>& y) {
  const auto finite = [](double value) { return std::isfinite(value); };
  if (!std::ranges::all_of(x, finite) || !std::ranges::all_of(y, finite)) return std::nan("");
  const std::vector<double> a = ranks(x);
  const std::vector<double> b = ranks(y);
  const double mean = (static_cast<double>(x.size()) + 1) / 2;
  double ab = 0;
  double aa = 0;
  double bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - mean) * (b[i] - mean);
    aa += (a[i] - mean) * (a[i] - mean);
    bb += (b[i] - mean) * (b[i] - mean);
  }
  return ab / std::sqrt(aa * bb);
}

Json collect(const fs::path& path, const GroupSweep& plan) {
  const Sweep sweep = cells_of(path, plan);
  Json cells = Json::array();
  // By groups, then by seed: the best cell so far.
  std::map<std::int64_t, std::map<std::int64_t, std::size_t>> best;
  std::int64_t finished = 0;
  for (std::size_t i = 0; i < plan.cells.size(); ++i) {
    const GroupSweep::Cell& cell = plan.cells[i];
    Json entry{{"id", cell.id},      {"groups", cell.groups},
               {"seed", cell.seed},  {"learning_rate", cell.learning_rate},
               {"measures", Json()}, {"notice", Json()}};
    const std::string fault = fault_of_summary(sweep.folder(i));
    const bool counts = sweep.finished(i);
    if (!fault.empty()) {
      note("{}; it does not count\n", fault);
    } else if (!counts && fs::exists(sweep.folder(i) / "summary.json")) {
      note("{}: the results of a run of other settings; they do not count\n",
           sweep.folder(i).string());
    }
    if (counts) {
      ++finished;
      const Json summary = read_summary(sweep.folder(i));
      entry["measures"] = measures(summary, (sweep.folder(i) / "summary.json").string());
      entry["notice"] = summary.value("notice", Json());
      const auto [found, first] = best[cell.groups].try_emplace(cell.seed, i);
      if (!first && better(entry["measures"], cells[found->second]["measures"])) found->second = i;
    }
    cells.push_back(std::move(entry));
  }

  Json chosen = Json::array();
  Json by_groups = Json::array();
  std::vector<double> groups;
  std::map<std::string, std::vector<double>> means;
  for (const auto& [g, seeds] : best) {
    std::map<std::string, std::vector<double>> values;
    for (const auto& [seed, i] : seeds) {
      chosen.push_back(cells[i]);
      for (const std::string& name : kMeasures) {
        const double value = number_or(cells[i]["measures"][name], std::nan(""));
        if (std::isfinite(value)) values[name].push_back(value);
      }
    }
    Json row{{"groups", g}, {"seeds", seeds.size()}};
    groups.push_back(static_cast<double>(g));
    for (const std::string& name : kMeasures) {
      row[name] = mean_and_deviation(values[name]);
      means[name].push_back(number_or(row[name]["mean"], std::nan("")));
    }
    by_groups.push_back(std::move(row));
  }
  Json correlation;
  for (const std::string& name : kMeasures) {
    correlation[name] = finite_or_null(spearman(groups, means[name]));
  }

  return {{"preset", plan.preset},
          {"settings", plan.settings},
          {"receptive_field", plan.settings_of(0).network().receptive_field()},
          {"planned", plan.cells.size()},
          {"finished", finished},
          {"cells", std::move(cells)},
          {"best", std::move(chosen)},
          {"by_groups", std::move(by_groups)},
          {"spearman", std::move(correlation)}};
}

}  // namespace sidechannel::experiments
