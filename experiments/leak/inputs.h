#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "experiments/leak/memory.h"
#include "models/network.h"

namespace sidechannel::experiments {

// What a leak is measured on: sets of samples, [S, L, C] each.

// The samples whose statistics belong together.
std::int64_t samples_of_set(const Network& network);

// What a network expects of a length that it does not take; empty where it takes it.
std::string objection(const Network& network, std::int64_t length);
// Twice what the network hears, cut to what its layers take.
std::int64_t natural_length(const Network& network);

// UsageError, which begins with the name and the number, for a tile, a halo or zeros behind an
// input that are not 0 and that the network cannot be asked about.
void check_parts(const Network& network,
                 std::initializer_list<std::pair<const char*, std::int64_t>> parts);
// Puts the sets and the length of sequences of `shape`, [n, l, C] or, of one channel, [n, l], into
// `size`, which has the channels and the samples of a set. Error, which begins with `source`, for
// another shape, none, and sets that are not whole.
void take_shape(const Shape& shape, const std::string& source, LeakSize& size);

// So many sets of noise, of `shape` each.
std::vector<Tensor> noise_sets(const Device& device, DType dtype, const Shape& shape,
                               std::int64_t count, std::uint64_t seed);
// Sequences in sets of `shape`, which they fill; in the given type. Error, which begins with
// `source`, where one is NaN or infinite then.
std::vector<Tensor> sets_of(const Device& device, DType dtype, const HostArray& sequences,
                            const Shape& shape, const std::string& source);

}  // namespace sidechannel::experiments
