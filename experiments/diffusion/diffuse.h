#pragma once

#include <string>
#include <vector>

#include "experiments/diffusion/settings.h"
#include "experiments/run/run_folder.h"
#include "models/network.h"

namespace sidechannel::experiments {

// How a run may become longer.
std::vector<Growth> growth_of(const DiffusionSettings& settings);

// Carries out a diffusion run in `folder`: trains the planner, plans, measures its leak as it
// learned, and writes leak.json and, last, summary.json, which it returns. Continues where an
// earlier call stopped. `settings` are the folder's, on `device` (see choose_device); `given` has
// the weights that it begins with, null where they are random or the folder keeps them (see
// begin()). Throws Interrupted when a signal asks for it.
Json run_diffusion(const DiffusionSettings& settings, RunFolder& folder, const Device& device,
                   const Network* given = nullptr);

// What a summary says of the plans.
std::string words_of_plans(const DiffusionSettings& settings, const Json& summary);

}  // namespace sidechannel::experiments
