#include "experiments/groups/collect.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "engine/finite.h"
#include "engine/say.h"
#include "experiments/run/run_folder.h"
#include "experiments/run/summary.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

// By which cells are judged, as collect() names them.
const std::vector<std::string> kMeasures = {
    "localization_distance", "unbroken_distance",           "interior_slope",
    "localized_fraction",    "interior_localized_fraction", "final_loss"};
constexpr const char* kGap = "population_gap";

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

Json members_of(const Json& list, const std::string& name) {
  Json result = Json::array();
  for (const Json& item : list) result.push_back(item[name]);
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

// The measures of a finished cell, whose summary this is.
Json measures_of(const Json& summary, const fs::path& folder, const SweepAxis& axis) {
  Json result = measures(summary, (folder / "summary.json").string());
  if (axis.population) {
    const fs::path population = folder / kPopulation;
    result[kPopulation] =
        measures(read_summary(population), (population / "summary.json").string());
    result[kGap] =
        result[kPopulation]["final_loss"].get<double>() - result["final_loss"].get<double>();
  }
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

// The spread of each measure over the seeds, of those too that lie within another.
Json spreads_of(const Json& of_seeds) {
  Json result;
  for (const auto& [name, first] : of_seeds.front().items()) {
    if (first.is_object()) {
      result[name] = spreads_of(members_of(of_seeds, name));
      continue;
    }
    std::vector<double> values;
    for (const Json& measures : of_seeds) {
      const double value = number_or(measures[name], std::nan(""));
      if (std::isfinite(value)) values.push_back(value);
    }
    result[name] = spread_of(values);
  }
  return result;
}

// Of the rows' means of each measure with the axis.
Json correlations_of(const std::vector<double>& axis, const Json& rows,
                     const std::vector<std::string>& names) {
  Json result;
  for (const std::string& name : names) {
    std::vector<double> means;
    for (const Json& row : rows) means.push_back(number_or(row[name]["mean"], std::nan("")));
    result[name] = finite_or_null(spearman(axis, means));
  }
  return result;
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

Json collect(const fs::path& path, const NormSweep& plan) {
  const Sweep sweep = cells_of(path, plan);
  Json cells = Json::array();
  // By value of the axis, then by seed: the best cell so far.
  std::map<std::int64_t, std::map<std::int64_t, std::size_t>> best;
  std::int64_t finished = 0;
  for (std::size_t i = 0; i < plan.cells.size(); ++i) {
    const NormSweep::Cell& cell = plan.cells[i];
    Json entry{{"id", cell.id},      {plan.axis->name, cell.value},
               {"seed", cell.seed},  {"learning_rate", cell.learning_rate},
               {"measures", Json()}, {"notice", Json()}};
    std::string fault = fault_of_summary(sweep.folder(i));
    if (fault.empty()) fault = fault_of_summary(sweep.folder(i) / kPopulation);
    const bool counts = sweep.finished(i);
    if (!fault.empty()) {
      note("{}; it does not count\n", fault);
    } else if (!counts && has_summary(sweep.folder(i)) &&
               !holds_run_of(sweep.folder(i), sweep.settings(i))) {
      note("{}: the results of a run of other settings; they do not count\n",
           sweep.folder(i).string());
    }
    if (counts) {
      ++finished;
      const Json summary = read_summary(sweep.folder(i));
      entry["measures"] = measures_of(summary, sweep.folder(i), *plan.axis);
      entry["notice"] = summary.value("notice", Json());
      const auto [found, first] = best[cell.value].try_emplace(cell.seed, i);
      if (!first && better(entry["measures"], cells[found->second]["measures"])) found->second = i;
    }
    cells.push_back(std::move(entry));
  }

  Json chosen = Json::array();
  Json rows = Json::array();
  std::vector<double> axis;
  for (const auto& [value, seeds] : best) {
    Json of_seeds = Json::array();
    for (const auto& [seed, i] : seeds) {
      chosen.push_back(cells[i]);
      of_seeds.push_back(cells[i]["measures"]);
    }
    Json row{{plan.axis->name, value}, {"seeds", seeds.size()}};
    row.update(spreads_of(of_seeds));
    axis.push_back(static_cast<double>(value));
    rows.push_back(std::move(row));
  }
  Json correlation = correlations_of(axis, rows, kMeasures);
  if (plan.axis->population) {
    correlation.update(correlations_of(axis, rows, {kGap}));
    correlation[kPopulation] = correlations_of(axis, members_of(rows, kPopulation), kMeasures);
  }

  return {{"preset", plan.preset},
          {"settings", plan.settings},
          {"receptive_field", plan.settings_of(0).radius()},
          {"planned", plan.cells.size()},
          {"finished", finished},
          {"cells", std::move(cells)},
          {"best", std::move(chosen)},
          {fmt::format("by_{}", plan.axis->name), std::move(rows)},
          {"spearman", std::move(correlation)}};
}

}  // namespace sidechannel::experiments
