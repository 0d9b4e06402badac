#pragma once

#include <cstdint>

#include "kernels/conv1d.h"

namespace sidechannel::kernels {

// A matrix product of overlapping rows, which the passes of a convolution are (and, of one tap, a
// dense layer's):
//
//   y[n, l, j] = start + sum over t < taps, c < channels of x[n, l + t - offset, c] * W[t, c, j]
//
// with zeros outside of x. W[t, c, j] is w[t, c, j], or w[taps - 1 - t, j, c] when flipped: a
// layer's weights are used for its input gradient as they stand in memory. start is bias[j], or
// what stands in y (kAccumulate), or 0. Kernels may count in an Index of 32 bits.
template <class T, class Index = std::int64_t>
struct RowProduct {
  Index batch = 1;
  Index length = 0, channels = 0;     // x [batch, length, channels]
  Index length_out = 0, columns = 0;  // y [batch, length_out, columns]
  Index taps = 1, offset = 0;
  const T* x = nullptr;
  const T* w = nullptr;
  bool flip = false;
  const T* bias = nullptr;  // [columns] or null
  T* y = nullptr;
  Write write = Write::kOverwrite;

  Index depth() const { return taps * channels; }

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
  p.x = call.x;
  p.w = call.w;
  p.bias = call.b;
  p.y = call.y;
  return p;
}

// The same problem: the rows are dy's, the weights are flipped in t and transposed.
template <class T>
RowProduct<T> row_product(const Conv1dBackwardInput<T>& call) {
  const Conv1dDims& dims = call.dims;
  const Conv1dDims reversed = {dims.batch,        dims.length_out(),
                               dims.channels_out, dims.channels_in,
                               dims.kernel_size,  dims.kernel_size - 1 - dims.padding};
  RowProduct<T> p = row_product(Conv1dForward<T>{reversed, call.dy, call.w, nullptr, call.dx.data});
  p.flip = true;
  p.write = call.dx.write;
  return p;
}

}  // namespace sidechannel::kernels
