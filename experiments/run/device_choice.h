#pragma once

#include "engine/device.h"
#include "experiments/run/settings.h"

namespace sidechannel::experiments {

// The device that settings ask for. Says on stderr what `auto` took, and why, but if `quiet`.
// Resolves the precision: `auto` is tf32 on a GPU that has it, fp32 elsewhere. UsageError for tf32
// where there is none, and for a wish that this build cannot fulfil.
Device choose_device(RunSettings& settings, bool quiet = false);

}  // namespace sidechannel::experiments
