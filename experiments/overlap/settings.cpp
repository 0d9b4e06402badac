#include "experiments/overlap/settings.h"

#include <algorithm>
#include <set>

#include "experiments/run/run_folder.h"

namespace sidechannel::experiments {

void OverlapSettings::check() const {
  check_network();
  overlap_list();
}

void OverlapSettings::check_network() const {
  check_domains(all_settings<OverlapSettings>(), *this);
  require(length() <= kMostLength,
          fmt::format("--depth {} with --kernel-size {}: sequences of {}, expected at most {}",
                      depth, kernel_size, length(), kMostLength));
}

std::vector<std::int64_t> OverlapSettings::overlap_list() const {
  constexpr std::size_t kMost = 1000;  // a network each
  const std::string flag = "--overlaps " + shown(overlaps);
  const std::vector<Range> ranges = ranges_in(overlaps);
  require(!ranges.empty(), fmt::format("{}: expected {}", flag, kOverlaps.form));
  std::set<std::int64_t> all;
  for (const Range& range : ranges) {
    for (const std::int64_t end : {range.first, range.last}) {
      require(end <= length(),
              fmt::format("{}: {}, but the sequences are {} long", flag, end, length()));
    }
    require(range.size() > 0, fmt::format("{}: {} is an empty range", flag, range.text));
    for (std::uint64_t i = 0; i < range.size(); ++i) {
      all.insert(range.first + static_cast<std::int64_t>(i) * range.step);
      require(all.size() <= kMost, fmt::format("{}: more than {} overlaps", flag, kMost));
    }
  }
  return {all.begin(), all.end()};
}

Json settings_of(const OverlapSettings& settings, std::int64_t overlap, const Json& beginning) {
  Json json = to_json(settings);
  for (const char* name : {"overlaps", "jobs"}) json.erase(name);
  if (settings.precision == "auto") json.erase("precision");  // known when it is made
  json["overlap"] = overlap;
  if (!beginning.is_null()) json[kFrom] = beginning;
  return json;
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
