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

std::uint64_t Range::size() const {
  if (step <= 0 || first > last) return 0;
  return static_cast<std::uint64_t>(last - first) / static_cast<std::uint64_t>(step) + 1;
}

std::vector<Range> ranges_in(const std::string& text) {
  std::vector<Range> ranges;
  for (const std::string& part : split(text, ',')) {
    std::string with_colons = part;
    const std::size_t dots = part.find("..");
    if (dots < part.find(':')) with_colons.replace(dots, 2, ":");
    std::vector<std::int64_t> numbers;
    for (const std::string& piece : split(with_colons, ':')) {
      const std::optional<std::int64_t> number = whole_number(piece);
      if (!number || *number < 0) return {};
      numbers.push_back(*number);
    }
    if (numbers.size() > 3) return {};
    const std::int64_t last = numbers.size() > 1 ? numbers[1] : numbers[0];
    ranges.push_back({numbers[0], last, numbers.size() > 2 ? numbers[2] : 1, part});
  }
  return ranges;
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
