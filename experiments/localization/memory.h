#pragma once

#include "experiments/localization/localize.h"
#include "experiments/localization/settings.h"
#include "experiments/run/memory.h"
#include "models/localizer.h"

namespace sidechannel::experiments {

MemoryNeed memory_of(const LocalizationSettings& settings, LocalizationPhases phases);
// Of a forward pass of a network over n sequences of length l.
MemoryNeed memory_of(const LocalizerConfig& network, double n, double l);

}  // namespace sidechannel::experiments
