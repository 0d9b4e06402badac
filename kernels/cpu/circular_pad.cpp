#include "kernels/circular_pad.h"

#include <algorithm>

namespace sidechannel::kernels {
namespace {
constexpr std::int64_t kGrain = 4096;  // elements that are worth a thread
}

template <class T>
void run(CpuQueue& queue, const CircularPadForward<T>& call) {
  const CircularPadDims dims = call.dims;
  const std::int64_t length = dims.length_out(), grain = kGrain / (dims.channels + 1) + 1;
  queue.parallel_for(dims.batch * length, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t from = row / length * dims.length + dims.source_of(row % length);
      std::copy_n(call.x + from * dims.channels, dims.channels, call.y + row * dims.channels);
    }
  });
}

template <class T>
void run(CpuQueue& queue, const CircularPadBackward<T>& call) {
  const GradOut<T> dx = call.dx;
  if (!dx.data) return;
  const CircularPadDims dims = call.dims;
  const std::int64_t length = dims.length_out(), grain = kGrain / (dims.channels + 1) + 1;
  queue.parallel_for(dims.batch * dims.length, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* dy = call.dy + row / dims.length * length * dims.channels;
      for (std::int64_t c = 0; c < dims.channels; ++c) {
        T sum = 0;
        for (std::int64_t j = dims.first_of(row % dims.length); j < length; j += dims.length) {
          sum += dy[j * dims.channels + c];
        }
        T& to = dx.data[row * dims.channels + c];
        to = dx.write == Write::kAccumulate ? to + sum : sum;
      }
    }
  });
}

template void run(CpuQueue&, const CircularPadForward<float>&);
template void run(CpuQueue&, const CircularPadForward<double>&);
template void run(CpuQueue&, const CircularPadBackward<float>&);
template void run(CpuQueue&, const CircularPadBackward<double>&);

}  // namespace sidechannel::kernels
