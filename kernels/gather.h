#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/queue.h"

namespace sidechannel::kernels {

// Rows at places that are drawn, out of a table or, overlapping, out of sequences:
//
//   y[n, i] = x[begin_of(index[n]) + i]
//
// Place p lies in sequence p / starts, (p % starts) * step elements behind its beginning. A row of
// a table is a sequence with one start.
struct GatherDims {
  std::int64_t rows;        // that are gathered
  std::int64_t width;       // elements of one
  std::int64_t sequences;   // >= 1
  std::int64_t extent;      // elements of a sequence
  std::int64_t starts = 1;  // places in a sequence, >= 1
  std::int64_t step = 0;    // elements from one to the next

  SC_HOST_DEVICE std::int64_t places() const { return sequences * starts; }
  // Where in x a row begins. `index` is a whole number held as a T; what lies outside of the places
  // means the nearest one, NaN the first: nobody looks, and nothing outside of x is read.
  template <class T>
  SC_HOST_DEVICE std::int64_t begin_of(T index) const {
    const std::int64_t last = places() - 1;
    const std::int64_t place = !(index > T(0))                ? 0
                               : index < static_cast<T>(last) ? static_cast<std::int64_t>(index)
                                                              : last;
    return place / starts * extent + place % starts * step;
  }
};

template <class T>
struct Gather {
  GatherDims dims;
  const T* x = nullptr;      // [sequences, extent]
  const T* index = nullptr;  // [rows]
  T* y = nullptr;            // [rows, width]
};
template <class T>
void run(CpuQueue& queue, const Gather<T>& call);
void run(CudaQueue& queue, const Gather<float>& call);

}  // namespace sidechannel::kernels
