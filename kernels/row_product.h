#pragma once

#include <cstdint>

#include "kernels/conv1d.h"
#include "kernels/host_device.h"

namespace sidechannel::kernels {

// A matrix product of overlapping rows, which the passes of a convolution are (and, of one tap, a
// dense layer's):
//
//   y[n, l, j] = start + sum over t < taps, c < channels of
//                x[n, (l * stride + t - offset) / spread, c] * W[t, c, j]
//
// over the t for which that is a whole number, with zeros outside of x. One of stride and spread
// is 1. W[t, c, j] is w[t, c, j], or w[taps - 1 - t, j, c] when flipped: a layer's weights are used
// for its input gradient as they stand in memory. start is bias[j], or what stands in y
// (kAccumulate), or 0. Kernels may count in an Index of 32 bits.
template <class T, class Index = std::int64_t>
struct RowProduct {
  Index batch = 1;
  Index length = 0, channels = 0;     // x [batch, length, channels]
  Index length_out = 0, columns = 0;  // y [batch, length_out, columns]
  Index taps = 1, offset = 0;
  Index stride = 1, spread = 1;  // spread > 1 only where flipped
  const T* x = nullptr;
  const T* w = nullptr;
  bool flip = false;
  const T* bias = nullptr;  // [columns] or null
  T* y = nullptr;
  Write write = Write::kOverwrite;

  Index depth() const { return taps * channels; }

  // Positions r, r + spread, ... of y meet the same taps, every spread-th, and neighbouring rows of
  // x: a product like any other, phase r, whose rows of y and taps of w lie `spread` apart. Its
  // taps and length_out count its own.
  SC_HOST_DEVICE Index phases() const { return spread < length_out ? spread : length_out; }
  SC_HOST_DEVICE RowProduct phase(Index r) const {
    if (spread == 1) return *this;
    const Index padding = taps - 1 - offset, tap = (r + padding) % spread;
    RowProduct one = *this;
    one.taps = (taps - tap + spread - 1) / spread;
    one.offset = one.taps - 1 - (r + padding) / spread;
    one.length_out = (length_out - r + spread - 1) / spread;
    one.w += std::int64_t{tap} * columns * channels;
    one.y += std::int64_t{r} * columns;
    return one;
  }

  // The same, counted as convert() does.
  template <class Convert>
  auto counted_by(const Convert& convert) const {
    return RowProduct<T, decltype(convert(batch))>{convert(batch),
                                                   convert(length),
                                                   convert(channels),
                                                   convert(length_out),
                                                   convert(columns),
                                                   convert(taps),
                                                   convert(offset),
                                                   convert(stride),
                                                   convert(spread),
                                                   x,
                                                   w,
                                                   flip,
                                                   bias,
                                                   y,
                                                   write};
  }
};

template <class T>
RowProduct<T> row_product(const Conv1dForward<T>& call) {
  const Conv1dDims& dims = call.dims;
  RowProduct<T> p;
  p.batch = dims.batch;
  p.length = dims.length;
  p.channels = dims.channels_in;
  p.length_out = dims.length_out();
  p.columns = dims.channels_out;
  p.taps = dims.kernel_size;
  p.offset = dims.padding;
  p.stride = dims.stride;
  p.x = call.x;
  p.w = call.w;
  p.bias = call.b;
  p.y = call.y;
  p.write = call.write;
  return p;
}

// The same problem: the rows are dy's, the weights are flipped in t and transposed.
template <class T>
RowProduct<T> row_product(const Conv1dBackwardInput<T>& call) {
  const Conv1dDims& dims = call.dims;
  const Conv1dDims reversed = {dims.batch,        dims.length_out(),
                               dims.channels_out, dims.channels_in,
                               dims.kernel_size,  dims.kernel_size - 1 - dims.padding};
  RowProduct<T> p =
      row_product(Conv1dForward<T>{reversed, call.dy, call.w, call.b, call.dx.data, call.dx.write});
  p.length_out = dims.length;
  p.spread = dims.stride;
  p.flip = true;
  return p;
}

}  // namespace sidechannel::kernels
