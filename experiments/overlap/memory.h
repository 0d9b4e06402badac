#pragma once

#include "experiments/overlap/settings.h"
#include "experiments/run/memory.h"

namespace sidechannel::experiments {

// Of one network.
MemoryNeed memory_of(const OverlapSettings& settings);

}  // namespace sidechannel::experiments
