#include "experiments/run/domain.h"

#include <fmt/format.h>

#include <algorithm>
#include <sstream>

namespace sidechannel::experiments {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream rest(text + separator);
  for (std::string part; std::getline(rest, part, separator);) parts.push_back(part);
  return parts;
}

bool Whole::holds(std::int64_t value) const {
  return value >= least && value <= most && !(odd && value % 2 == 0);
}

std::string Whole::words() const {
  return fmt::format("{} number from {} to {}", odd ? "an odd" : "a whole", least, most);
}

bool Real::holds(double value) const {
  const bool above = least_too ? value >= least : value > least;
  return above && (most_too ? value <= most : value < most);  // NaN is nowhere
}

std::string Real::words() const {
  return fmt::format("a number {} {} and {} {}", least_too ? "of at least" : "above", least,
                     most_too ? "at most" : "below", most);
}

bool OneOf::holds(const std::string& value) const {
  return std::ranges::find(names, value) != names.end();
}

std::string OneOf::words() const {
  return listed(names);
}

std::string OneOf::type() const {
  return fmt::format("{}", fmt::join(names, "|"));
}

}  // namespace sidechannel::experiments
