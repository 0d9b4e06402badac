#pragma once

#include <cstdint>

#include "kernels/host_device.h"
#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// Windows into sequences, each a sequence of its own:
//
//   y[n * count + w, i] = x[n, w * stride + i]
//
// Windows overlap where stride < length, and are all the same where stride = 0.
struct WindowsDims {
  std::int64_t samples;
  std::int64_t count;   // windows in a sequence, >= 1
  std::int64_t length;  // of a window
  std::int64_t stride;  // from one window's beginning to the next one's

  SC_HOST_DEVICE std::int64_t extent() const { return (count - 1) * stride + length; }
  SC_HOST_DEVICE std::int64_t size() const { return samples * count * length; }
};

template <class T>
struct WindowsForward {
  WindowsDims dims;
  const T* x = nullptr;  // [samples, extent()]
  T* y = nullptr;        // [samples * count, length]
};
template <class T>
void run(CpuQueue& queue, const WindowsForward<T>& call);
void run(CudaQueue& queue, const WindowsForward<float>& call);

// dx[n, j] = sum over w of dy[n * count + w, j - w * stride], from the first window on, where the
// window holds j; 0 where none does.
template <class T>
struct WindowsBackward {
  WindowsDims dims;
  const T* dy = nullptr;
  GradOut<T> dx = {};
};
template <class T>
void run(CpuQueue& queue, const WindowsBackward<T>& call);
void run(CudaQueue& queue, const WindowsBackward<float>& call);

}  // namespace sidechannel::kernels
