#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sidechannel::experiments {

// "1,4,8": the multipliers of a temporal U-Net's levels; UsageError for anything else.
std::vector<std::int64_t> multipliers_from(const std::string& text);

}  // namespace sidechannel::experiments
