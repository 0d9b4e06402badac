#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/run/domain.h"
#include "models/temporal_unet.h"

namespace sidechannel::experiments {

// "1,4,8": the multipliers of a temporal U-Net's levels.
bool are_multipliers(const std::string& text);
std::vector<std::int64_t> multipliers_from(const std::string& text);  // std::invalid_argument

// How messages name what a temporal U-Net is made of: by the flags that say so.
inline constexpr TemporalUnetConfig::Names kUnetFlags{"--dim", "--multipliers", "--groups",
                                                      "--kernel-size"};

inline const Text kMultipliers{"whole numbers from 1 to 16384 with commas between, such as 1,4,8",
                               are_multipliers};

}  // namespace sidechannel::experiments
