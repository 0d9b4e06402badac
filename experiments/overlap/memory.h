#pragma once

#include <cstdint>

#include "experiments/overlap/settings.h"
#include "experiments/run/memory.h"

namespace sidechannel::experiments {

// Of `jobs` networks that train next to each other.
MemoryNeed memory_of(const OverlapSettings& settings, std::int64_t jobs);

}  // namespace sidechannel::experiments
