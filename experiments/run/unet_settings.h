#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/run/domain.h"

namespace sidechannel::experiments {

// "1,4,8": the multipliers of a temporal U-Net's levels.
bool are_multipliers(const std::string& text);
std::vector<std::int64_t> multipliers_from(const std::string& text);  // std::invalid_argument

inline const Text kMultipliers{"whole numbers from 1 to 16384 with commas between, such as 1,4,8",
                               are_multipliers, "N,N,..."};

}  // namespace sidechannel::experiments
