#include "experiments/overlap_settings.h"

#include <charconv>
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

std::vector<std::string> OverlapSettings::do_not_matter() {
  std::vector<std::string> names = kDoNotMatter;
  names.insert(names.end(), {"overlaps", "jobs"});
  return names;
}

void OverlapSettings::check() const {
  require_at_least("batch", batch, 1);
  require_at_least("iterations", iterations, 1);
  require_at_least("warmup", warmup, 0);
  require_at_least("test pairs", test_pairs, 2);
  require_at_least("jobs", jobs, 0);
  require(iterations < (std::int64_t{1} << 32), "iterations: expected fewer than 2^32");
  require(test_pairs < (std::int64_t{1} << 32), "test pairs: expected fewer than 2^32");
  require(learning_rate > 0, "learning rate: expected more than 0");
  RunSettings::check();
  network().check();
  training_rate();
  overlap_list();
}

std::vector<std::int64_t> OverlapSettings::overlap_list() const {
  std::set<std::int64_t> all;
  for (const std::string_view part : split(overlaps, ',')) {
    std::vector<std::int64_t> numbers;
    for (const std::string_view text : split(part, ':')) {
      std::int64_t number = -1;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
      require(error == std::errc() && end == text.data() + text.size() && number >= 0,
              fmt::format("overlaps {}: expected a list of numbers and of FIRST:LAST:STEP, as in "
                          "0:32:4,33",
                          overlaps));
      require(number <= length() || numbers.size() == 2,  // a step may be anything
              fmt::format("overlap {}: the sequences are {} long", number, length()));
      numbers.push_back(number);
    }
    require(numbers.size() <= 3,
            fmt::format("overlaps {}: {} is no FIRST:LAST:STEP", overlaps, part));
    const std::int64_t last = numbers.size() > 1 ? numbers[1] : numbers[0];
    const std::int64_t step = numbers.size() > 2 ? numbers[2] : 1;
    require(step > 0 && numbers[0] <= last,
            fmt::format("overlaps {}: {} is an empty range", overlaps, part));
    for (std::int64_t o = numbers[0]; o <= last; o += step) all.insert(o);
  }
  return {all.begin(), all.end()};
}

}  // namespace sidechannel::experiments
