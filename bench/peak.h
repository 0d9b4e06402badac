#pragma once

namespace sidechannel::bench {

// The fused multiply-add peak in GFLOP/s of `threads` cores at once, as measured now: independent
// chains that stay in registers, the best of a few runs of some 50 ms.
double fma_peak(int threads);

}  // namespace sidechannel::bench
