#include "kernels/concat.h"

#include <algorithm>

namespace sidechannel::kernels {
namespace {

constexpr std::int64_t kGrain = 4096;  // elements that are worth a thread

// dx = columns of dy, [rows, channels], from `first` on.
template <class T>
void take_columns(CpuQueue& queue, const ConcatBackward<T>& call, std::int64_t first,
                  std::int64_t columns, GradOut<T> dx) {
  if (!dx.data) return;
  const std::int64_t channels = call.dims.channels();
  queue.parallel_for(call.dims.rows, kGrain / (columns + 1) + 1,
                     [=](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t row = begin; row < end; ++row) {
                         const T* from = call.dy + row * channels + first;
                         T* to = dx.data + row * columns;
                         for (std::int64_t c = 0; c < columns; ++c) {
                           to[c] = dx.write == Write::kAccumulate ? to[c] + from[c] : from[c];
                         }
                       }
                     });
}

}  // namespace

template <class T>
void run(CpuQueue& queue, const ConcatForward<T>& call) {
  const ConcatDims dims = call.dims;
  const std::int64_t grain = kGrain / (dims.channels() + 1) + 1;
  queue.parallel_for(dims.rows, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      T* to = call.y + row * dims.channels();
      to = std::copy_n(call.a + row * dims.channels_a, dims.channels_a, to);
      std::copy_n(call.b + row * dims.channels_b, dims.channels_b, to);
    }
  });
}

template <class T>
void run(CpuQueue& queue, const ConcatBackward<T>& call) {
  const auto [rows, a, b] = call.dims;
  take_columns(queue, call, 0, a, call.da);
  take_columns(queue, call, a, b, call.db);
}

template void run(CpuQueue&, const ConcatForward<float>&);
template void run(CpuQueue&, const ConcatForward<double>&);
template void run(CpuQueue&, const ConcatBackward<float>&);
template void run(CpuQueue&, const ConcatBackward<double>&);

}  // namespace sidechannel::kernels
