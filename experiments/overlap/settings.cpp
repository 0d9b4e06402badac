#include "experiments/overlap/settings.h"

#include <optional>
#include <set>
#include <string_view>

namespace sidechannel::experiments {
namespace {

// The parts between separators.
std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0;;) {
    const std::size_t end = text.find(separator, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

}  // namespace

void OverlapSettings::check() const {
  check_domains(all_settings<OverlapSettings>(), *this);
  require(length() <= kMostLength,
          fmt::format("--depth {} with --kernel-size {}: sequences of {}, expected at most {}",
                      depth, kernel_size, length(), kMostLength));
  overlap_list();
}

std::vector<std::int64_t> OverlapSettings::overlap_list() const {
  constexpr std::size_t kMost = 1000;  // a network each
  const std::string flag = "--overlaps " + shown(overlaps);
  std::set<std::int64_t> all;
  for (const std::string_view part : split(overlaps, ',')) {
    std::vector<std::int64_t> numbers;
    for (const std::string_view text : split(part, ':')) {
      const std::optional<std::int64_t> number = whole_number(text);
      require(number && *number >= 0,
              fmt::format("{}: expected a list of numbers and of FIRST:LAST:STEP, as in 0:32:4,33",
                          flag));
      require(*number <= length() || numbers.size() == 2,  // a step may be anything
              fmt::format("{}: {}, but the sequences are {} long", flag, *number, length()));
      numbers.push_back(*number);
    }
    require(numbers.size() <= 3, fmt::format("{}: {} is no FIRST:LAST:STEP", flag, shown(part)));
    const std::int64_t last = numbers.size() > 1 ? numbers[1] : numbers[0];
    const std::int64_t step = numbers.size() > 2 ? numbers[2] : 1;
    require(step > 0 && numbers[0] <= last,
            fmt::format("{}: {} is an empty range", flag, shown(part)));
    for (std::int64_t o = numbers[0];; o += step) {
      all.insert(o);
      require(all.size() <= kMost, fmt::format("{}: more than {} overlaps", flag, kMost));
      if (last - o < step) break;
    }
  }
  return {all.begin(), all.end()};
}

}  // namespace sidechannel::experiments
