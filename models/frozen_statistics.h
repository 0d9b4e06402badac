#pragma once

#include <vector>

#include "models/localizer.h"

namespace sidechannel {

// The statistics that each normalization of a network takes of x [N, L, 1], which must be the
// samples of one set: with these (NormHook::fixed) the network answers x as it does with its own,
// but for roundings, and hears nothing through them. A norm of each position alone hears nothing as
// it is, and gets none. Summed in f64 on the host; in the network's type.
std::vector<FixedStatistics> statistics_of(const Localizer& network, const Tensor& x);

}  // namespace sidechannel
