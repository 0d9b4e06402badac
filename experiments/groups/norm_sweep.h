#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "experiments/localization/settings.h"
#include "experiments/run/sweep.h"

namespace sidechannel::experiments {

// The sweep behind Figure 4: localization with GroupNorm, for every number of groups, seed and
// learning rate.
struct GroupSweep {
  struct Cell {
    std::string id;
    std::int64_t groups = 1;
    std::int64_t seed = 0;
    double learning_rate = 0;
  };
  std::string preset = "demo";
  Json settings;  // what the cells share, by name
  std::vector<Cell> cells;

  // A cell's own: what they share, and what makes it this cell.
  LocalizationSettings settings_of(std::size_t cell) const;
};

// What makes a cell: not part of what the cells share.
inline const std::vector<std::string> kAxes = {"norm", "groups", "seed", "learning_rate"};

// Cells of a sweep at most: each is a folder and a line of the plan.
inline constexpr std::int64_t kMostCells = 10'000;

// A sweep by its preset ("demo", "small", "paper" or a JSON file): settings of localization and
//
//   "groups": [1, 2, 4],  "seeds": 2 (from 0),  "learning_rates": [1e-3, 2e-3]
//
// `given` lies over it. Cells are ordered so that the first of them make a whole, if thin, figure:
// groups vary first, then learning rates, then seeds. UsageError for what makes no sense.
GroupSweep plan_groups(const std::string& preset, const Json& given = Json::object());

// plan.json in the sweep's folder. Written once: another plan than the one that is there is a
// UsageError that says how they differ.
void write_plan(const std::filesystem::path& path, const GroupSweep& sweep);
// That UsageError, and nothing written.
void require_folder_for(const std::filesystem::path& path, const GroupSweep& sweep);
bool has_plan(const std::filesystem::path& path);
GroupSweep read_plan(const std::filesystem::path& path);

Sweep cells_of(const std::filesystem::path& path, const GroupSweep& plan);

// What the finished cells say, and the same bytes for the same finished cells, whatever their
// order and times:
//
//   cells      the measures of each, or null where it is not finished, and its notice (see
//              training_notice) where it has learned nothing
//   best       for each number of groups and seed, its best finished learning rate: the one with
//              the largest localized fraction, of equals the largest interior slope
//   by_groups  mean and standard deviation (n - 1) of the best's measures over the seeds
//   spearman   rank correlation of those means with the number of groups
Json collect(const std::filesystem::path& path, const GroupSweep& plan);

// Spearman's rank correlation, equal values sharing the mean of their ranks; NaN for fewer than two
// points or without any variation.
double spearman(const std::vector<double>& x, const std::vector<double>& y);

}  // namespace sidechannel::experiments
