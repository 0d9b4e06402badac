#include "experiments/overlap/settings.h"

#include <algorithm>
#include <optional>
#include <set>

namespace sidechannel::experiments {
namespace {

// The numbers of each part between commas; empty where the text is of another form.
std::vector<std::vector<std::int64_t>> read(const std::string& text) {
  std::vector<std::vector<std::int64_t>> parts;
  for (const std::string& part : split(text, ',')) {
    parts.emplace_back();
    for (const std::string& of_range : split(part, ':')) {
      const std::optional<std::int64_t> number = whole_number(of_range);
      if (!number || *number < 0) return {};
      parts.back().push_back(*number);
    }
    if (parts.back().size() > 3) return {};
  }
  return parts;
}

}  // namespace

bool are_overlaps(const std::string& text) {
  return !read(text).empty();
}

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
  const std::vector<std::vector<std::int64_t>> parts = read(overlaps);
  require(!parts.empty(), fmt::format("{}: expected {}", flag, kOverlaps.form));
  std::set<std::int64_t> all;
  for (const std::vector<std::int64_t>& numbers : parts) {
    const std::string part = fmt::format("{}", fmt::join(numbers, ":"));
    for (std::size_t i = 0; i < std::min<std::size_t>(numbers.size(), 2); ++i) {
      require(numbers[i] <= length(),
              fmt::format("{}: {}, but the sequences are {} long", flag, numbers[i], length()));
    }
    const std::int64_t last = numbers.size() > 1 ? numbers[1] : numbers[0];
    const std::int64_t step = numbers.size() > 2 ? numbers[2] : 1;
    require(step > 0 && numbers[0] <= last, fmt::format("{}: {} is an empty range", flag, part));
    for (std::int64_t o = numbers[0];; o += step) {
      all.insert(o);
      require(all.size() <= kMost, fmt::format("{}: more than {} overlaps", flag, kMost));
      if (last - o < step) break;
    }
  }
  return {all.begin(), all.end()};
}

MemoryNeed memory_of(const OverlapSettings& s) {
  const double h = d(s.channels);
  const double k = d(s.kernel_size);
  const double depth = d(s.depth);
  // Valid convolutions: each layer's sequences are k - 1 shorter than those before it.
  const double length = d(s.length());
  const double hidden = (depth - 1) * length - (k - 1) * (depth - 1) * depth / 2;
  const double floats =
      2 * d(s.batch) * (2 * length + 2 * h * hidden + 3 * h * length + 3 * h * (depth - 2));
  return {
      {trained_parameters("the networks' weights in training",
                          "--channels, --depth or --kernel-size", stack_parameters(depth, h, k, 2)),
       arena_memory("the activations of a training step",
                    "--batch, --channels, --depth or --kernel-size", floats)}};
}

}  // namespace sidechannel::experiments
