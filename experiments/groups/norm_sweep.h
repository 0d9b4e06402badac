#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "experiments/localization/settings.h"
#include "experiments/run/sweep.h"

namespace sidechannel::experiments {

// What a sweep varies beside seeds and learning rates: a setting of one kind of norm.
struct SweepAxis {
  const char* name;        // of the setting, and of the list of its values
  const char* experiment;  // in plan.json, and where its presets lie
  const char* norm;
  const char* letter;  // in the cells' ids
  std::int64_t LocalizationSettings::*member;
  bool population;  // each network is evaluated with its population statistics, too
};

// The paper's Figure 4 and the last sentences of its Section 3.3.
inline constexpr std::array kSweepAxes = {
    SweepAxis{"groups", "groups", "group", "G", &LocalizationSettings::groups, false},
    SweepAxis{"samples_per_set", "crosstalk", "batch", "S", &LocalizationSettings::samples_per_set,
              true}};
inline constexpr const SweepAxis& kGroups = kSweepAxes[0];
inline constexpr const SweepAxis& kSamplesPerSet = kSweepAxes[1];
std::vector<const char*> sweep_axis_names();
const SweepAxis& sweep_axis_named(const std::string& name);  // of one of those

// Localization with one kind of norm, for every value of an axis, seed and learning rate.
struct NormSweep {
  struct Cell {
    std::string id;
    std::int64_t value = 1;  // on the axis
    std::int64_t seed = 0;
    double learning_rate = 0;
  };
  const SweepAxis* axis = &kGroups;
  std::string preset = "demo";
  Json settings;  // what the cells share, by name
  std::vector<Cell> cells;

  // A cell's own: what they share, and what makes it this cell.
  LocalizationSettings settings_of(std::size_t cell) const;
};

// Where a cell of an axis with `population` has the run of its network with these statistics, below
// its own folder.
inline constexpr const char* kPopulation = "population";
LocalizationSettings with_population(LocalizationSettings settings);

// What makes a cell: not part of what the cells share.
std::vector<std::string> not_shared(const SweepAxis& axis);

// Cells of a sweep at most: each is a folder and a line of the plan.
inline constexpr std::int64_t kMostCells = 10'000;

// A sweep by its preset ("demo", "small", "paper" or a JSON file): settings of localization and
//
//   "groups": [1, 2, 4],  "seeds": 2 (from 0),  "learning_rates": [1e-3, 2e-3]
//
// with the axis's list. `given` lies over it. Cells are ordered so that the first of them make a
// whole, if thin, figure: the axis varies first, then learning rates, then seeds. UsageError for
// what makes no sense.
NormSweep plan_sweep(const std::string& preset, const Json& given = Json::object(),
                     const SweepAxis& axis = kGroups);

// plan.json in the sweep's folder. Written once: another plan than the one that is there is a
// UsageError that says how they differ.
void write_plan(const std::filesystem::path& path, const NormSweep& sweep);
// That UsageError, and nothing written.
void require_folder_for(const std::filesystem::path& path, const NormSweep& sweep);
bool has_plan(const std::filesystem::path& path);
NormSweep read_plan(const std::filesystem::path& path);

Sweep cells_of(const std::filesystem::path& path, const NormSweep& plan);

}  // namespace sidechannel::experiments
