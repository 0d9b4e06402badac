#pragma once

#include "experiments/diffusion/planning.h"
#include "experiments/run/run_folder.h"

namespace sidechannel::experiments {

// Plans for pairs of junctions, all by the network's weights as they stand, and what becomes of
// them: for pairs that training has seen and for those that it has not, "inside" (share of
// positions within a corridor), "valid" (share of plans that stay in the corridors without a jump),
// "solved" (share of pairs with a valid plan) and "distance" (of a plan to the nearest training
// window, root mean square, in lengths of a corridor). Where the norm has running statistics, the
// same network plans once more with these: "population". Writes plans.npy [n, horizon, 2], the
// pairs held out first, plans-population.npy likewise, and pairs.npy [n, 2].
Json evaluate_plans(const DiffusionSettings& settings, const Corridors& corridors,
                    const TemporalUnet& network, const RunFolder& folder);

// How much the network hears from beyond its receptive field, on plans of training data: for noise
// steps from the first to the last, and for half, all and twice of the horizon, the shares of
// measure_leak. A list, for lines of leak.json.
Json leak_of(const DiffusionSettings& settings, const Corridors& corridors, TemporalUnet& network);

}  // namespace sidechannel::experiments
