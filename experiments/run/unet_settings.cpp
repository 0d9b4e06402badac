#include "experiments/run/unet_settings.h"

#include <optional>

#include "experiments/run/domain.h"

namespace sidechannel::experiments {

std::vector<std::int64_t> multipliers_from(const std::string& text) {
  std::vector<std::int64_t> all;
  for (const std::string& part : split(text, ',')) {
    const std::optional<std::int64_t> number = whole_number(part);
    require(number && *number >= 1 && *number <= kMostChannels,
            fmt::format("--multipliers {}: expected whole numbers from 1 to {} with commas between",
                        shown(text), kMostChannels));
    all.push_back(*number);
  }
  return all;
}

}  // namespace sidechannel::experiments
