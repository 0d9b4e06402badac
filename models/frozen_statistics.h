#pragma once

#include <vector>

#include "models/network.h"

namespace sidechannel {

// The statistics that each normalization of a network took in a pass that `seen` has seen, whose
// sequences must be those of one set: with these as NormHook::layers the network answers the same
// input as it does with its own, but for roundings, and hears nothing through them. A norm of each
// position alone hears nothing as it is, and none is held. Summed in f64 on the host; in the
// network's type.
std::vector<NormHook::Layer> statistics_of(const NormHook& seen);
// Those of a network that is given x [N, L, C].
std::vector<NormHook::Layer> statistics_of(const Network& network, const Tensor& x);

}  // namespace sidechannel
