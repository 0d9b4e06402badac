#include "experiments/run/unet_settings.h"

#include <optional>

#include "experiments/run/domain.h"

namespace sidechannel::experiments {

namespace {

// Empty: not of this form.
std::vector<std::int64_t> read(const std::string& text) {
  std::vector<std::int64_t> all;
  for (const std::string& part : split(text, ',')) {
    const std::optional<std::int64_t> number = whole_number(part);
    if (!number || *number < 1 || *number > kMostChannels) return {};
    all.push_back(*number);
  }
  return all;
}

}  // namespace

bool are_multipliers(const std::string& text) {
  return !read(text).empty();
}

std::vector<std::int64_t> multipliers_from(const std::string& text) {
  std::vector<std::int64_t> all = read(text);
  require(!all.empty(), fmt::format("multipliers {}: expected {}", shown(text), kMultipliers.form));
  return all;
}

}  // namespace sidechannel::experiments
