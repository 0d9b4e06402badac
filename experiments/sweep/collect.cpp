#include "experiments/sweep/collect.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "engine/finite.h"
#include "engine/say.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

// The names of the measures of any of these cells, in the order in which they come.
template <class Cells>
std::vector<std::string> measures_of(const Cells& cells) {
  std::vector<std::string> names;
  for (const Json& cell : cells) {
    for (const auto& item : cell["measures"].items()) {
      if (std::ranges::find(names, item.key()) == names.end()) names.push_back(item.key());
    }
  }
  return names;
}

// Error where a cell has no measure of that name.
double measure(const Json& cell, const std::string& name) {
  const Json& measures = cell["measures"];
  SC_CHECK(measures.contains(name), "--choose: {} has no measure {}; it has {}",
           cell["id"].get<std::string>(), shown(name),
           fmt::join(measures_of(Json::array({cell})), ", "));
  return number_or(measures[name], std::nan(""));
}

// How good a cell is: the larger, the better. What is not defined is worse than any number.
std::vector<double> rank_of(const Json& cell, const Choice& choice) {
  std::vector<double> values;
  for (const Choice::Measure& by : choice.by) {
    const double value = measure(cell, by.name) * (by.most ? 1 : -1);
    values.push_back(std::isnan(value) ? -std::numeric_limits<double>::infinity() : value);
  }
  return values;
}

// The cell's values on these axes.
Json values_on(const Json& cell, const std::vector<std::string>& axes) {
  Json values = Json::array();
  for (const std::string& axis : axes) values.push_back(cell["settings"][axis]);
  return values;
}

std::vector<std::string> without(std::vector<std::string> axes, const std::string& name) {
  std::erase(axes, name);
  return axes;
}

// The best of each, in the order of the values that they share.
std::vector<Json> chosen(const std::vector<Json>& cells, const std::vector<std::string>& axes,
                         const Choice& choice) {
  std::map<Json, std::pair<std::vector<double>, Json>> best;
  for (const Json& cell : cells) {
    const std::vector<double> rank = rank_of(cell, choice);
    auto& found = best[values_on(cell, without(axes, choice.axis))];
    if (found.second.is_null() || rank > found.first) found = {rank, cell};
  }
  std::vector<Json> result;
  for (const auto& [values, found] : best) result.push_back(found.second);
  return result;
}

Json spread_of(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const auto [least, most] = std::ranges::minmax_element(values);
  return {{"mean", finite_or_null(mean)},
          {"deviation", n > 1 ? finite_or_null(std::sqrt(squares / (n - 1))) : Json()},
          {"least", n > 0 ? Json(*least) : Json()},
          {"most", n > 0 ? Json(*most) : Json()}};
}

// Of each measure, over these cells.
Json spreads_of(const std::vector<Json>& cells) {
  Json result = Json::object();
  for (const std::string& name : measures_of(cells)) {
    std::vector<double> values;
    for (const Json& cell : cells) {
      const double value = number_or(cell["measures"].value(name, Json()), std::nan(""));
      if (std::isfinite(value)) values.push_back(value);
    }
    result[name] = spread_of(values);
  }
  return result;
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

// Of the rows' means of each measure with the one axis.
Json correlations_of(const std::string& axis, const Json& rows,
                     const std::vector<std::string>& names) {
  std::vector<double> values;
  for (const Json& row : rows) {
    if (!row[axis].is_number()) return {};
    values.push_back(row[axis].get<double>());
  }
  Json result = Json::object();
  for (const std::string& name : names) {
    std::vector<double> means;
    for (const Json& row : rows) {
      const Json spread = row.value(name, Json::object());
      means.push_back(number_or(spread.value("mean", Json()), std::nan("")));
    }
    result[name] = finite_or_null(spearman(values, means));
  }
  return result;
}

// A cell as results.json has it: its settings beside the rest.
Json flat_cell(const Json& cell) {
  Json result = {{"id", cell["id"]}};
  result.update(cell["settings"]);
  for (const char* name : {"measures", "notice"}) result[name] = cell[name];
  return result;
}

Json flat_cells(const std::vector<Json>& cells) {
  Json all = Json::array();
  for (const Json& cell : cells) all.push_back(flat_cell(cell));
  return all;
}

// Says why a cell's results do not count, where it has any.
void note_what_does_not_count(const SweepPlan& plan, const Sweep& sweep, std::size_t i) {
  const std::string fault = plan.program->fault(plan.settings_of(i), sweep.folder(i));
  if (!fault.empty()) {
    note("{}; it does not count\n", fault);
  } else if (sweep.has_results(i) && !sweep.finished(i)) {
    note("{}: the results of a run of other settings; they do not count\n",
         sweep.folder(i).string());
  }
}

// A field of a CSV file (RFC 4180).
std::string field_of(const Json& value) {
  if (value.is_null()) return {};
  std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  if (text.find_first_of(",\"\n\r") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + '"';
}

}  // namespace

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

Json collect(const fs::path& path, const SweepPlan& plan, const std::string& choose) {
  const std::string& choice_text = choose.empty() ? plan.choose : choose;
  std::optional<Choice> choice;
  if (!choice_text.empty()) choice = parse_choice(*plan.program, choice_text, plan.axes);
  const Sweep sweep = cells_of(path, plan);
  std::vector<Json> cells, finished;
  for (std::size_t i = 0; i < plan.cells.size(); ++i) {
    Json cell = {{"id", plan.cells[i].id},
                 {"settings", plan.cells[i].settings},
                 {"measures", Json()},
                 {"notice", Json()}};
    note_what_does_not_count(plan, sweep, i);
    if (sweep.finished(i)) {
      const SweptProgram::Outcome outcome =
          plan.program->outcome(plan.settings_of(i), sweep.folder(i));
      cell["measures"] = outcome.measures;
      cell["notice"] = outcome.notice;
      finished.push_back(cell);
    }
    cells.push_back(std::move(cell));
  }

  Json results = {{"program", plan.program->name()}, {"preset", plan.preset},
                  {"settings", plan.settings},       {"over", plan.axes},
                  {"planned", cells.size()},         {"finished", finished.size()},
                  {"cells", flat_cells(cells)}};
  std::vector<Json> best = finished;
  std::vector<std::string> by = without(plan.axes, "seed");
  if (choice) {
    best = chosen(finished, plan.axes, *choice);
    std::erase(by, choice->axis);
    results["choose"] = choice->text;
    results["best"] = flat_cells(best);
  }
  const std::vector<std::string> names = measures_of(best);
  std::map<Json, std::vector<Json>> groups;
  for (Json& cell : best) groups[values_on(cell, by)].push_back(std::move(cell));
  Json rows = Json::array();
  for (const auto& [values, of] : groups) {
    Json row = Json::object();
    for (std::size_t i = 0; i < by.size(); ++i) row[by[i]] = values[i];
    row["seeds"] = of.size();
    row.update(spreads_of(of));
    rows.push_back(std::move(row));
  }
  results["by"] = by;
  results["rows"] = rows;
  results["spearman"] = by.size() == 1 ? correlations_of(by.front(), rows, names) : Json();
  return results;
}

std::string to_csv(const Json& results) {
  const Json& cells = results["cells"];
  std::vector<std::string> settings;
  for (const Json& cell : cells) {
    for (const auto& item : cell.items()) {
      if (item.key() == "measures" || item.key() == "notice") continue;
      if (std::ranges::find(settings, item.key()) == settings.end()) settings.push_back(item.key());
    }
  }
  const std::vector<std::string> measures = measures_of(cells);
  std::string text = fmt::format("{}", fmt::join(settings, ","));
  const bool chooses = results.contains("best");
  if (chooses) text += ",best";
  for (const std::string& name : measures) text += "," + name;
  text += '\n';
  std::set<std::string> best;
  for (const Json& cell : results.value("best", Json::array()))
    best.insert(cell["id"].get<std::string>());
  for (const Json& cell : cells) {
    std::string line;
    for (const std::string& name : settings) {
      line += (line.empty() ? "" : ",") + field_of(cell.value(name, Json()));
    }
    if (chooses) line += best.contains(cell["id"].get<std::string>()) ? ",1" : ",0";
    for (const std::string& name : measures) {
      const Json& own = cell["measures"];
      line += ',' + (own.is_null() ? "" : field_of(own.value(name, Json())));
    }
    text += line + '\n';
  }
  return text;
}

}  // namespace sidechannel::experiments
