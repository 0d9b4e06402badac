#pragma once

#include <filesystem>
#include <vector>

#include "experiments/groups/norm_sweep.h"

namespace sidechannel::experiments {

// What the finished cells say, and the same bytes for the same finished cells, whatever their
// order and times:
//
//   cells      the measures of each, or null where it is not finished, and its notice (see
//              training_notice) where it has learned nothing
//   best       for each value of the axis and seed, its best finished learning rate: the one with
//              the largest localized fraction, of equals the largest interior slope
//   by_groups  (or by_ another axis) mean and standard deviation (n - 1) of the best's measures
//              over the seeds, and the least and the largest
//   spearman   rank correlation of those means with the axis
//
// Where networks are evaluated with their population statistics, too, the measures have those under
// "population", and how much larger the loss is there: "population_gap".
Json collect(const std::filesystem::path& path, const NormSweep& plan);

// Spearman's rank correlation, equal values sharing the mean of their ranks; NaN for fewer than two
// points or without any variation.
double spearman(const std::vector<double>& x, const std::vector<double>& y);

}  // namespace sidechannel::experiments
