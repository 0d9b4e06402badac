#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// Sequences that go on beyond their ends as if they were closed to rings, as often around as it
// takes:
//
//   y[n, j, c] = x[n, (j - before) mod length, c]
struct CircularPadDims {
  std::int64_t batch;
  std::int64_t length;  // >= 1
  std::int64_t channels;
  std::int64_t before;  // positions more at the beginning, >= 0
  std::int64_t after;   // at the end, >= 0

  SC_HOST_DEVICE std::int64_t length_out() const { return before + length + after; }
  // Where in y position i of x stands first; then every `length` positions.
  SC_HOST_DEVICE std::int64_t first_of(std::int64_t i) const { return (i + before) % length; }
  // What stands at position j of y.
  SC_HOST_DEVICE std::int64_t source_of(std::int64_t j) const {
    return (j + length - before % length) % length;
  }
};

template <class T>
struct CircularPadForward {
  CircularPadDims dims;
  const T* x = nullptr;  // [batch, length, channels]
  T* y = nullptr;        // [batch, length_out(), channels]
};
template <class T>
void run(CpuQueue& queue, const CircularPadForward<T>& call);
void run(CudaQueue& queue, const CircularPadForward<float>& call);

// dx[n, i, c] = sum of dy[n, j, c] over the j where x[n, i, c] stands, ascending.
template <class T>
struct CircularPadBackward {
  CircularPadDims dims;
  const T* dy = nullptr;  // as y
  GradOut<T> dx = {};
};
template <class T>
void run(CpuQueue& queue, const CircularPadBackward<T>& call);
void run(CudaQueue& queue, const CircularPadBackward<float>& call);

}  // namespace sidechannel::kernels
