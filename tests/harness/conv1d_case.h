#pragma once

// Convolutions for the tests of all backends: shapes, and the definition term by term.

#include <fmt/format.h>

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/conv1d.h"
#include "tests/harness/op_check.h"

namespace sidechannel::harness {

using kernels::Conv1dDims;

// Each is here for a reason; generated ones follow.
inline const std::vector<Conv1dDims> kConv1dDims = {
    {1, 1, 1, 1, 1, 0},     // the smallest
    {2, 1, 3, 2, 5, 2},     // one position, shorter than the kernel
    {1, 2, 2, 3, 5, 4},     // l < k with the widest padding: more outputs than inputs
    {3, 3, 1, 4, 5, 2},     // l < k, one input channel
    {2, 4, 5, 1, 7, 6},     // l < k, one output channel
    {2, 5, 3, 3, 5, 0},     // valid, one output position
    {2, 11, 4, 6, 5, 0},    // valid
    {2, 13, 7, 5, 3, 1},    // primes
    {1, 17, 16, 16, 5, 2},  // whole vectors
    {1, 9, 17, 33, 3, 1},   // one channel more than whole vectors
    {1, 9, 15, 31, 3, 1},   // one fewer
    {2, 7, 1, 33, 5, 2},    // the first layer's kind: one channel in
    {2, 7, 33, 1, 5, 2},    // the last layer's kind: one channel out
    {2, 12, 8, 8, 4, 1},    // an even kernel: the two sides differ
    {2, 12, 8, 8, 4, 3},    //
};

inline Conv1dDims draw_conv1d_dims(Draw& draw) {
  Conv1dDims dims{};
  do {
    dims.batch = draw.integer(1, 3);
    dims.length = draw.pick({1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 16});
    dims.channels_in = draw.pick({1, 1, 2, 3, 4, 5, 7, 8, 9});
    dims.channels_out = draw.pick({1, 1, 2, 3, 4, 5, 7, 8, 9, 17});
    dims.kernel_size = draw.integer(1, 7);
    dims.padding = draw.integer(0, dims.kernel_size - 1);
  } while (dims.length_out() < 1);
  return dims;
}

// Those, then generated ones: `count` in all.
inline std::vector<Conv1dDims> conv1d_dims(int count) {
  std::vector<Conv1dDims> all = kConv1dDims;
  Draw draw(2024);
  while (static_cast<int>(all.size()) < count) all.push_back(draw_conv1d_dims(draw));
  return all;
}

inline std::string text(const Conv1dDims& d) {
  return fmt::format("N={} L={} C_in={} C_out={} k={} padding={}", d.batch, d.length, d.channels_in,
                     d.channels_out, d.kernel_size, d.padding);
}

// The three sums of the definition, term by term.
struct Conv1dReferences {
  Reference y, dx, dw, db;
};

inline Conv1dReferences brute_force(const Conv1dDims& d, const std::vector<double>& x,
                                    const std::vector<double>& w, const std::vector<double>& b,
                                    const std::vector<double>& dy) {
  const std::int64_t length_out = d.length_out();
  Conv1dReferences r{Reference(d.batch * length_out * d.channels_out),
                     Reference(d.batch * d.length * d.channels_in),
                     Reference(d.kernel_size * d.channels_in * d.channels_out),
                     Reference(d.channels_out)};
  const auto at = [](const std::vector<double>& v, std::int64_t i) {
    return v[static_cast<std::size_t>(i)];
  };
  for (std::int64_t n = 0; n < d.batch; ++n) {
    for (std::int64_t l = 0; l < length_out; ++l) {
      for (std::int64_t co = 0; co < d.channels_out; ++co) {
        const std::int64_t out = (n * length_out + l) * d.channels_out + co;
        r.y.add(out, at(b, co));
        r.db.add(co, at(dy, out));
        for (std::int64_t t = 0; t < d.kernel_size; ++t) {
          const std::int64_t position = l + t - d.padding;
          if (position < 0 || position >= d.length) continue;
          for (std::int64_t ci = 0; ci < d.channels_in; ++ci) {
            const std::int64_t in = (n * d.length + position) * d.channels_in + ci;
            const std::int64_t tap = (t * d.channels_in + ci) * d.channels_out + co;
            r.y.add(out, at(x, in) * at(w, tap));
            r.dx.add(in, at(dy, out) * at(w, tap));
            r.dw.add(tap, at(dy, out) * at(x, in));
          }
        }
      }
    }
  }
  return r;
}

}  // namespace sidechannel::harness
