#include "experiments/sweep/plan.h"

#include <algorithm>
#include <array>
#include <climits>
#include <map>
#include <set>

#include "engine/say.h"
#include "experiments/run/flags.h"
#include "experiments/run/run_folder.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

constexpr const char* kExperiment = "sweep";  // in plan.json
// Those with presets of their own: the paper's Figure 4 and the last sentences of its Section 3.3.
constexpr std::array kNamedSweeps = {"groups", "crosstalk"};

std::string joined(const std::vector<std::string>& names) {
  return fmt::format("{}", fmt::join(names, ", "));
}

// The setting of that name, or one of whose flags it is; null where there is none.
const Setting* find_setting(const SweptProgram& program, const std::string& name) {
  for (const Setting& setting : program.settings()) {
    const std::vector<std::string> flags = flags_of(setting);
    if (std::ranges::find(flags, flag_of(name)) != flags.end()) return &setting;
  }
  return nullptr;
}

// NAME=REST, where NAME is that of a setting that may be varied, or one of its flags'.
std::pair<Setting, std::string> named_setting(const SweptProgram& program, const std::string& flag,
                                              const std::string& text) {
  const std::size_t equals = text.find('=');
  require(equals != std::string::npos && equals > 0,
          fmt::format("{} {}: expected NAME=VALUE, as in seed=0", flag, shown(text)));
  std::string name = text.substr(0, equals);
  std::ranges::replace(name, '-', '_');
  for (const std::string& how : do_not_matter()) {
    require(name != how,
            fmt::format("{} {}: {} is not for a sweep to set", flag, shown(text), how));
  }
  if (const Setting* found = find_setting(program, name)) return {*found, text.substr(equals + 1)};
  std::vector<std::string> names;
  for (const Setting& setting : program.settings()) names.emplace_back(setting.name);
  throw UsageError(fmt::format("{} {}: {} has no setting {}{}", flag, shown(text), program.name(),
                               shown(name), suggestion(name, names)));
}

std::string flag_with(const char* flag, const Setting& setting) {
  return fmt::format("{} {}", flag, setting.name);
}

// A sweep's preset by its name or as a file.
Json read_sweep(const std::string& preset) {
  if (!preset.ends_with(".json")) {
    for (const char* name : kNamedSweeps) {
      if (preset.starts_with(std::string(name) + '/')) {
        return read_preset(name, preset.substr(preset.find('/') + 1));
      }
    }
    require(!preset.empty(),
            fmt::format("expected --program ({}) and --over, or --preset with a sweep, such as "
                        "groups/demo",
                        swept_programs()));
    throw UsageError(
        fmt::format("--preset {}: expected groups/ or crosstalk/ with demo, small or paper, or a "
                    ".json file; or --program, whose preset it is",
                    shown(preset)));
  }
  return read_preset("", preset);
}

// Takes a member out of an object.
template <class T>
T taken(Json& from, const char* name, const std::string& source, const Json& otherwise = Json()) {
  Json object = from;
  if (!otherwise.is_null() && !from.contains(name)) object[name] = otherwise;
  T value = asked_for([&] { return field<T>(object, name, source); });
  from.erase(name);
  return value;
}

std::vector<std::string> taken_list(Json& from, const char* name, const std::string& source) {
  std::vector<std::string> texts = asked_for([&] {
    std::vector<std::string> all;
    for (const Json& text : list_member(from, name, source)) {
      all.push_back(json_as<std::string>(text, fmt::format("{}: {}", source, name)));
    }
    return all;
  });
  from.erase(name);
  return texts;
}

// Those that the texts say, none of them twice.
std::vector<Axis> axes_of(const SweptProgram& program, const std::vector<std::string>& texts) {
  std::vector<Axis> axes;
  for (const std::string& text : texts) {
    Axis axis = parse_axis(program, text);
    require(std::ranges::find(axes, axis.setting, &Axis::setting) == axes.end(),
            fmt::format("--over {}: is given twice", axis.setting));
    axes.push_back(std::move(axis));
  }
  return axes;
}

std::string id_of(const std::vector<Axis>& axes, const Json& settings) {
  std::string id;
  for (const Axis& axis : axes) {
    const Json& value = settings.at(axis.setting);
    id += fmt::format("{}{}={}", id.empty() ? "" : ",", axis.setting,
                      value.is_string() ? value.get<std::string>() : value.dump());
  }
  return id;
}

// Why some cells make no sense, and which, but of many the first.
std::string refusal(const std::vector<std::pair<std::string, std::vector<std::string>>>& reasons,
                    std::size_t cells) {
  std::size_t refused = 0;
  std::string text;
  for (const auto& [why, ids] : reasons) {
    refused += ids.size();
    constexpr std::size_t kNamed = 8;
    std::vector<std::string> first = ids;
    first.resize(std::min(ids.size(), kNamed));
    text +=
        fmt::format("{}{} ({}{})", text.empty() ? "" : "; ", why, fmt::join(first, " "),
                    ids.size() > kNamed ? fmt::format(" and {} more", ids.size() - kNamed) : "");
  }
  // What is so in every cell is no matter of theirs.
  if (reasons.size() == 1 && refused == cells) return reasons.front().first;
  return fmt::format("{} of {} cells make no sense: {}", refused, cells, text);
}

// All combinations, the first axis varying first.
std::vector<Json> combinations(const std::vector<Axis>& axes) {
  double count = 1;
  std::string sizes;
  for (const Axis& axis : axes) {
    count *= static_cast<double>(axis.values.size());
    sizes += fmt::format("{}{} of {}", sizes.empty() ? "" : ", ", axis.values.size(), axis.setting);
  }
  require(
      count <= static_cast<double>(kMostCells),
      fmt::format("a sweep over {} has {} cells, expected at most {}", sizes, count, kMostCells));
  std::vector<Json> all = {Json::object()};
  for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
    std::vector<Json> longer;
    for (const Json& rest : all) {
      for (const Json& value : axis->values) {
        Json cell = Json::object({{axis->setting, value}});
        cell.update(rest);
        longer.push_back(std::move(cell));
      }
    }
    all = std::move(longer);
  }
  return all;
}

Json to_json(const SweepPlan& plan) {
  Json cells = Json::array();
  for (const SweepPlan::Cell& cell : plan.cells) {
    cells.push_back({{"id", cell.id}, {"settings", cell.settings}});
  }
  return {{"experiment", kExperiment},
          {"program", plan.program->name()},
          {"population", plan.population},
          {"preset", plan.preset},
          {"over", plan.axes},
          {"choose", plan.choose},
          {"settings", plan.settings},
          {"cells", std::move(cells)}};
}

}  // namespace

Axis parse_axis(const SweptProgram& program, const std::string& text) {
  const std::pair<Setting, std::string> named = named_setting(program, "--over", text);
  const auto& setting = named.first;
  const std::string& list = named.second;
  const std::string flag = flag_with("--over", setting);
  const bool whole = std::holds_alternative<Whole>(setting.domain);
  const bool has_commas = std::holds_alternative<Text>(setting.domain);
  Axis axis{setting.name, {}};
  const auto add = [&](const std::string& part) {
    axis.values.push_back(read_flag(setting, flag, part));
    require(std::ssize(axis.values) <= kMostCells,
            fmt::format("{} {}: more than {} values", flag, shown(list), kMostCells));
  };
  for (const std::string& part : split(list, has_commas ? '/' : ',')) {
    const bool is_range = whole && part.find_first_of(".:") != std::string::npos;
    const std::vector<Range> ranges = is_range ? ranges_in(part) : std::vector<Range>{};
    require(!is_range || !ranges.empty(),
            fmt::format("{} {}: expected {}", flag, shown(part), kRanges));
    if (!is_range) add(part);
    for (const Range& range : ranges) {
      require(range.size() > 0, fmt::format("{} {}: is an empty range", flag, range.text));
      for (std::uint64_t i = 0; i < range.size(); ++i) {
        add(std::to_string(range.first + static_cast<std::int64_t>(i) * range.step));
      }
    }
  }
  std::set<Json> seen;
  for (const Json& value : axis.values) {
    require(seen.insert(value).second,
            fmt::format("{} {}: names {} twice", flag, shown(list), flag_text(value)));
  }
  return axis;
}

Choice parse_choice(const SweptProgram& program, const std::string& text,
                    const std::vector<std::string>& axes) {
  const std::string form = "expected AXIS=max:MEASURE,min:MEASURE,...";
  const std::size_t equals = text.find('=');
  require(equals != std::string::npos, fmt::format("--choose {}: {}", shown(text), form));
  const Setting* setting = find_setting(program, text.substr(0, equals));
  const std::string axis = setting != nullptr ? setting->name : text.substr(0, equals);
  Choice choice{axis, {}, axis + text.substr(equals)};
  require(std::ranges::find(axes, choice.axis) != axes.end(),
          fmt::format("--choose {}: the sweep is over {}", shown(text), joined(axes)));
  for (const std::string& part : split(text.substr(equals + 1), ',')) {
    const bool most = part.starts_with("max:");
    require((most || part.starts_with("min:")) && part.size() > 4,
            fmt::format("--choose {}: {}", shown(text), form));
    choice.by.push_back({part.substr(4), most});
  }
  return choice;
}

Json SweepPlan::settings_of(std::size_t cell) const {
  Json all = settings;
  all.update(cells[cell].settings);
  return all;
}

SweepPlan plan_sweep(const SweepRequest& request) {
  SweepPlan plan;
  std::vector<std::string> over;
  Json base;
  if (!request.program.empty()) {
    plan.preset = request.preset.empty() ? "demo" : request.preset;
    plan.population = request.population;
    plan.program = swept_program(request.program, plan.population);
    base = read_preset(request.program, plan.preset);
  } else {
    plan.preset = request.preset;
    base = read_sweep(plan.preset);
    const auto program = taken<std::string>(base, "program", plan.preset);
    over = taken_list(base, "over", plan.preset);
    plan.choose = taken<std::string>(base, "choose", plan.preset, "");
    plan.population = taken<bool>(base, "population", plan.preset, false) || request.population;
    plan.program = asked_for([&] {
      return in_context(plan.preset, [&] { return swept_program(program, plan.population); });
    });
    const auto require_settings = [&](const Json& of) {
      for (const std::string& name : do_not_matter()) {
        require(!of.is_object() || !of.contains(name),
                fmt::format("{}: {} is not for a sweep to set", plan.preset, name));
      }
    };
    require_settings(base);
    if (base.contains("for_norm") && base["for_norm"].is_object()) {
      for (const Json& of_norm : base["for_norm"]) require_settings(of_norm);
    }
  }

  std::vector<Axis> axes = asked_for(
      [&] { return in_context(plan.preset, [&] { return axes_of(*plan.program, over); }); });
  for (Axis& axis : axes_of(*plan.program, request.over)) {
    const auto there = std::ranges::find(axes, axis.setting, &Axis::setting);
    if (there != axes.end()) {
      *there = std::move(axis);
    } else {
      axes.push_back(std::move(axis));
    }
  }
  require(!axes.empty(), "expected --over, as in --over seed=0..4");
  for (const Axis& axis : axes) plan.axes.push_back(axis.setting);
  if (!plan.choose.empty()) {
    asked_for([&] {
      in_context(plan.preset,
                 [&] { plan.choose = parse_choice(*plan.program, plan.choose, plan.axes).text; });
    });
  }
  Json set = Json::object();
  for (const std::string& text : request.set) {
    const auto [setting, value] = named_setting(*plan.program, "--set", text);
    require(std::ranges::find(plan.axes, setting.name) == plan.axes.end(),
            fmt::format("--set {}: the sweep is over it", setting.name));
    set[setting.name] = read_flag(setting, flag_with("--set", setting), value);
  }

  std::vector<std::pair<std::string, std::vector<std::string>>> reasons;
  std::vector<Json> all;
  std::map<std::string, std::pair<std::size_t, std::string>>
      idle;  // of what is set: how often, why
  const std::vector<Json> values = combinations(axes);
  for (const Json& value : values) {
    const std::string id = id_of(axes, value);
    require(id.size() <= NAME_MAX,
            fmt::format("--over: a cell's name of {} letters, expected at most {}; vary fewer "
                        "settings",
                        id.size(), NAME_MAX));
    const auto refuse = [&](const std::string& why) {
      const auto known = std::ranges::find(reasons, why, [](const auto& r) { return r.first; });
      if (known != reasons.end()) return known->second.push_back(id);
      reasons.push_back({why, {id}});
    };
    Json given = set;
    given.update(value);
    try {
      Resolved cell = plan.program->resolve(base, plan.preset, given);
      // On an axis every value is to do something; what is set, only somewhere.
      std::string nothing;
      for (const auto& [name, why] : cell.idle) {
        if (value.contains(name)) {
          nothing = nothing.empty() ? why : nothing;
        } else {
          ++idle[name].first;
          idle[name].second = why;
        }
      }
      if (nothing.empty()) {
        plan.cells.push_back({id, value});
        all.push_back(std::move(cell.settings));
      } else {
        refuse(nothing);
      }
    } catch (const UsageError& error) {
      refuse(error.what());
    }
  }
  require(reasons.empty(), refusal(reasons, values.size()));
  for (const auto& [name, seen] : idle) require(seen.first < values.size(), seen.second);

  plan.settings = Json::object();
  for (const auto& item : all.front().items()) {
    const std::string& name = item.key();
    if (std::ranges::find(plan.axes, name) != plan.axes.end()) continue;
    if (std::ranges::all_of(all, [&](const Json& of) { return of[name] == item.value(); })) {
      plan.settings[name] = item.value();
      continue;
    }
    for (std::size_t i = 0; i < all.size(); ++i) plan.cells[i].settings[name] = all[i][name];
  }
  return plan;
}

void require_folder_for(const fs::path& path, const SweepPlan& plan) {
  const auto same = [&](bool is, const std::string& what) {
    require(is, fmt::format("{} holds {}; choose another --out", path.string(), what));
  };
  same(!fs::exists(path / kConfigFile), "a run, not a sweep");
  if (!has_plan(path)) return;
  const SweepPlan theirs = read_plan(path);
  same(std::string(theirs.program->name()) == plan.program->name(),
       fmt::format("a sweep of {}, not {}", theirs.program->name(), plan.program->name()));
  same(theirs.population == plan.population,
       fmt::format("a sweep {} --population", theirs.population ? "with" : "without"));
  same(theirs.axes == plan.axes,
       fmt::format("a sweep over {}, not {}", joined(theirs.axes), joined(plan.axes)));
  const std::vector<std::string> names = differences(plan.settings, theirs.settings, {});
  const auto at = [&](const Json& settings) {
    return in_words(settings.value(names.front(), Json()));
  };
  same(names.empty(), names.empty()
                          ? ""
                          : fmt::format("a sweep with other settings ({} is {} there, {} here)",
                                        names.front(), at(theirs.settings), at(plan.settings)));
  same(theirs.choose == plan.choose, "a sweep that chooses otherwise (see `collect --choose`)");
  same(to_json(theirs)["cells"] == to_json(plan)["cells"],
       fmt::format("a sweep of other values of {}", joined(plan.axes)));
}

void write_plan(const fs::path& path, const SweepPlan& plan) {
  require_folder_for(path, plan);
  const FolderLock lock = locked(path);
  require_folder_for(path, plan);  // nobody changes it from here on
  if (!has_plan(path)) write_json(path / kPlanFile, to_json(plan));
}

bool has_plan(const fs::path& path) {
  return fs::exists(path / kPlanFile);
}

SweepPlan read_plan(const fs::path& path) {
  const std::string source = (path / kPlanFile).string();
  const Json json = read_json(path / kPlanFile);
  const auto experiment = field<std::string>(json, "experiment", source);
  SC_CHECK(
      std::ranges::find(kNamedSweeps, experiment) == kNamedSweeps.end(),
      "{}: is of the program groups, of an earlier version, which alone continues and collects "
      "it; choose another --out",
      source);
  SC_CHECK(experiment == kExperiment, "{}: not a plan of a sweep but of {}", source,
           shown(experiment));
  SweepPlan plan;
  plan.population = field<bool>(json, "population", source);
  const auto program = field<std::string>(json, "program", source);
  plan.program = in_context(source, [&] { return swept_program(program, plan.population); });
  plan.preset = field<std::string>(json, "preset", source);
  for (const Json& axis : list_member(json, "over", source)) {
    const auto name = json_as<std::string>(axis, source + ": \"over\"");
    SC_CHECK(std::ranges::find(plan.axes, name) == plan.axes.end(), "{}: \"over\" names {} twice",
             source, shown(name));
    plan.axes.push_back(name);
  }
  plan.choose = field<std::string>(json, "choose", source);
  if (!plan.choose.empty()) {
    in_context(source, [&] { parse_choice(*plan.program, plan.choose, plan.axes); });
  }
  plan.settings = object_member(json, "settings", source);
  const Json& cells = list_member(json, "cells", source);
  SC_CHECK(!cells.empty(), "{}: \"cells\" is an empty list, expected at least one cell", source);
  std::set<std::string> ids;
  for (const Json& cell : cells) {
    const std::string where = fmt::format("{}: cell {}", source, plan.cells.size());
    const auto id = field<std::string>(cell, "id", where);
    // The ids name folders: nothing that leads elsewhere or is too long for one.
    SC_CHECK(!id.empty() && id.size() <= NAME_MAX && id.front() != '.' && id.find('/') == id.npos &&
                 id.find('\0') == id.npos,
             "{}: \"id\" is {}, which is no name for a folder", where, in_quotes(id));
    SC_CHECK(ids.insert(id).second, "{}: there are two of the id {}", where, in_quotes(id));
    plan.cells.push_back({id, object_member(cell, "settings", where)});
    for (const std::string& axis : plan.axes) member(plan.cells.back().settings, axis, where);
    in_context(where, [&] { plan.program->check(plan.settings_of(plan.cells.size() - 1)); });
  }
  return plan;
}

MemoryNeed memory_of(const SweepPlan& plan, const Json& how) {
  MemoryNeed largest;
  double most = -1;
  for (std::size_t cell = 0; cell < plan.cells.size(); ++cell) {
    MemoryNeed need = plan.program->memory(plan.settings_of(cell), how);
    const MemoryPeak peak = peak_of(need);
    if (peak.reserved + peak.host > most) {
      most = peak.reserved + peak.host;
      largest = std::move(need);
    }
  }
  return largest;
}

Sweep cells_of(const fs::path& path, const SweepPlan& plan) {
  std::vector<std::string> ids;
  for (const SweepPlan::Cell& cell : plan.cells) ids.push_back(cell.id);
  const fs::path folder = path / "cells";
  return {.path = path,
          .program = "sweep",
          .cells = folder,
          .ids = ids,
          .settings =
              [=](std::size_t cell) {
                Json settings = plan.settings_of(cell);
                // What the device computes in is known when it works.
                if (settings.value("precision", "") == "auto") settings.erase("precision");
                return settings;
              },
          .results = plan.program->results(),
          .has_results =
              [=](std::size_t cell) {
                return plan.program->has_results(plan.settings_of(cell), folder / ids[cell]);
              }};
}

}  // namespace sidechannel::experiments
