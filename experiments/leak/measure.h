#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/io/json.h"
#include "models/network.h"

namespace sidechannel::experiments {

// What a leak is measured with.
struct LeakOptions {
  std::vector<std::int64_t> asked;  // positions of the output, all channels of each
  bool layers = true;               // one norm after the other, too
  bool causal = false;              // hearing the future is the leak
};

// How much a network's outputs hear from beyond its receptive field, by the Jacobian J of the asked
// outputs with respect to all of the input, at each of `inputs` [S, L, C] (a set of samples, where
// statistics hold several; the first one's outputs are asked then). Sums run over the inputs.
//
// Statistics are live, or held at what they are: constants on the way back, which is the Jacobian
// with frozen statistics; so nothing of one held is heard through it, to the bit. The report has
//
//   live, frozen      of the mass of J, and of its square, the share outside the field
//   mean, variance    the same where only the norms' means, or only their variances, are live
//   difference        |J_live - J_frozen|^2 / |J_live|^2, where the field covers everything
//   future            the share at inputs later than the output's own position
//   layers            of each norm: the share without it (it alone held), and of it alone (all
//                     others held), its mean's and its variance's
//   profile           the mean of |J| by how far the input lies behind the output
//
// In the network's type, on its device (see without_shortcuts). Error where anything on the way to
// the output is not finite, a derivative or its square: a share of that would be nothing.
Json measure_leak(const Network& network, std::span<const Tensor> inputs,
                  const LeakOptions& options);

// The same device, whose kernels depend on exactly what their definitions name: the roundings of
// faster ones would be heard.
Device without_shortcuts(const Device& device);

// The positions, evenly spaced over an output of so many; all of them where there are fewer.
std::vector<std::int64_t> evenly_spaced(std::int64_t positions, std::int64_t count);

// What cutting x [1, L, C] costs: the network's answer to all of x beside the answers to tiles of
// `tile` positions, each with `halo` more at both ends of which nothing is kept. `norm` is what the
// tiles' own statistics do to it, `padding` the rest, with statistics held at those of all of x;
// each in terms of the answer's deviation, |a - b| / |a - mean of a|, where it has one. Error where
// an answer is not finite.
Json measure_tiles(const Network& network, const Tensor& x, std::int64_t tile, std::int64_t halo);

// The same of x beside x with so many zeros behind it, as batches of sequences are padded.
Json measure_padding(const Network& network, const Tensor& x, std::int64_t zeros);

}  // namespace sidechannel::experiments
