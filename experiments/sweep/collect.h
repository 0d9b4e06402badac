#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "experiments/sweep/plan.h"

namespace sidechannel::experiments {

// What the finished cells say, and the same bytes for the same finished cells, whatever their
// order and times:
//
//   cells     the measures of each, or null where it is not finished, and its notice (see
//             training_notice) where it has learned nothing
//   best      where the plan chooses: the cells that stand for others
//   rows      for each combination of the axes but `seed` (and the one that is chosen on) the mean
//             and standard deviation (n - 1) of their measures, and the least and the largest
//   spearman  where that is one axis of numbers: rank correlation of those means with it
//
// `choose`, where given, is instead of the plan's.
Json collect(const std::filesystem::path& path, const SweepPlan& plan,
             const std::string& choose = "");

// The cells of that as a table: id, what they differ in, whether the cell is one of the best where
// there are such, and every measure of any; empty where it has none.
std::string to_csv(const Json& results);

// Spearman's rank correlation, equal values sharing the mean of their ranks; NaN for fewer than two
// points or without any variation.
double spearman(const std::vector<double>& x, const std::vector<double>& y);

}  // namespace sidechannel::experiments
