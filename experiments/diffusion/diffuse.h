#pragma once

#include <string>

#include "experiments/diffusion/settings.h"
#include "experiments/run/run_folder.h"

namespace sidechannel::experiments {

// Carries out a diffusion run in `folder`: trains the planner, plans, measures its leak as it
// learned, and writes leak.json and, last, summary.json, which it returns. Continues where an
// earlier call stopped. `settings` are the folder's, on `device` (see choose_device). Throws
// Interrupted when a signal asks for it.
Json run_diffusion(const DiffusionSettings& settings, RunFolder& folder, const Device& device);

// What a summary says of the plans.
std::string words_of_plans(const DiffusionSettings& settings, const Json& summary);

}  // namespace sidechannel::experiments
