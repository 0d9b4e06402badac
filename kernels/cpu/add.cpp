#include "kernels/add.h"

#include <algorithm>

#include "kernels/copy.h"

namespace sidechannel::kernels {
namespace {
constexpr std::int64_t kGrain = 4096;  // elements that are worth a thread
}

template <class T>
void run(CpuQueue& queue, const AddForward<T>& call) {
  const AddDims dims = call.dims;
  queue.parallel_for(dims.size(), kGrain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end;) {
      const std::int64_t row = i / dims.channels, first = row * dims.channels;
      const T* b = call.b + row / dims.length * dims.channels;
      for (const std::int64_t last = std::min(end, first + dims.channels); i < last; ++i) {
        call.y[i] = call.a[i] + b[i - first];
      }
    }
  });
}

// Columns are summed side by side, position after position.
template <class T>
void run(CpuQueue& queue, const AddBackward<T>& call) {
  copy(queue, call.dims.size(), call.dy, call.da);
  const GradOut<T> db = call.db;
  if (!db.data) return;
  const AddDims dims = call.dims;
  if (dims.length == 1) return copy(queue, dims.size(), call.dy, db);
  constexpr std::int64_t kColumns = 64;
  const std::int64_t pieces = (dims.channels + kColumns - 1) / kColumns;
  const std::int64_t grain = kGrain / (dims.length * kColumns + 1) + 1;
  queue.parallel_for(dims.batch * pieces, grain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t piece = begin; piece < end; ++piece) {
      const std::int64_t n = piece / pieces, first = piece % pieces * kColumns;
      const std::int64_t columns = std::min(kColumns, dims.channels - first);
      const T* dy = call.dy + n * dims.length * dims.channels + first;
      double sums[kColumns] = {};
      for (std::int64_t l = 0; l < dims.length; ++l) {
        for (std::int64_t c = 0; c < columns; ++c) {
          sums[c] += static_cast<double>(dy[l * dims.channels + c]);
        }
      }
      T* to = db.data + n * dims.channels + first;
      for (std::int64_t c = 0; c < columns; ++c) {
        const T sum = static_cast<T>(sums[c]);
        to[c] = db.write == Write::kAccumulate ? to[c] + sum : sum;
      }
    }
  });
}

template void run(CpuQueue&, const AddForward<float>&);
template void run(CpuQueue&, const AddForward<double>&);
template void run(CpuQueue&, const AddBackward<float>&);
template void run(CpuQueue&, const AddBackward<double>&);

}  // namespace sidechannel::kernels
