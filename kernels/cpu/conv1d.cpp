// conv1d on the CPU, channels last.
//
// The k * C_in inputs of one output position are contiguous in x, and those of the next position
// begin stride * C_in further on. So a convolution is one matrix product whose left matrix has
// overlapping rows (leading dimension stride * C_in, k * C_in columns): no im2col, nothing is
// packed. The input gradient has one such product for each phase (row_product.h).
//
//   forward:         y  = rows(x)  * w               w  as [k * C_in, C_out]
//   input gradient:  dx = rows(dy) * w'              w' = w flipped in t and transposed
//   weights:         dw = rows(x)^T * dy
//
// In fp32 the two gradients take the faster way of conv1d_winograd.h where it fits.

#include "kernels/conv1d.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels/cpu/conv1d_winograd.h"
#include "kernels/cpu/row_product.h"

namespace sidechannel::kernels {
namespace {

bool may_filter(const CpuQueue& queue) {
  return queue.conv_gradients() == ConvGradients::kFastest;
}

template <class T>
void multiply_rows(CpuQueue& queue, const RowProduct<T>& p) {
  if constexpr (std::is_same_v<T, float>) {
    // With a bias it is a transposed convolution, and no gradient.
    if (p.flip && !p.bias && may_filter(queue) && winograd::suits(p)) {
      return winograd::multiply(queue, p);
    }
  }
  multiply(queue, p);
}

// The sum of dy over positions [l0, l1) of sample n, added to db.
template <class T>
void accumulate_bias(const Conv1dDims& dims, const T* dy, std::int64_t n, std::int64_t l0,
                     std::int64_t l1, T* db) {
  accumulate_rows(dy + (n * dims.length_out() + l0) * dims.channels_out, dims.channels_out,
                  dims.channels_out, l1 - l0, db);
}

// Calls body(n, l0, l1) for each chunk of positions of y, samples [first, last).
template <class Body>
void for_chunks(const Conv1dDims& dims, std::int64_t first, std::int64_t last, const Body& body) {
  for (std::int64_t n = first; n < last; ++n) {
    for (std::int64_t l = 0; l < dims.length_out(); l += kChunk) {
      body(n, l, std::min(l + kChunk, dims.length_out()));
    }
  }
}

// Weight gradient of a convolution with one input channel:
// dw[t, :] += sum of x[l * stride + t - padding] * dy[l, :]. All taps of a position are one block
// of rows.
template <class T>
void accumulate_single_channel(CpuQueue& queue, const Conv1dDims& dims, const T* x, const T* dy,
                               T* dw, std::int64_t ld_dw) {
  const std::int64_t padded = dims.length + 2 * dims.padding;
  T* sequence = static_cast<T*>(queue.scratch(static_cast<std::size_t>(padded) * sizeof(T)));
  std::fill_n(sequence, padded, T(0));
  for_chunks(dims, 0, dims.batch, [&](std::int64_t n, std::int64_t l0, std::int64_t l1) {
    if (l0 == 0) std::copy_n(x + n * dims.length, dims.length, sequence + dims.padding);
    accumulate_block(sequence + l0 * dims.stride, dims.stride, dims.kernel_size,
                     dy + (n * dims.length_out() + l0) * dims.channels_out, dims.channels_out,
                     dims.channels_out, l1 - l0, dw, ld_dw);
  });
}

// Asks for one of `count` slices of the chunk of rows that begins at `row`: the next one that
// accumulate_weights reads, mostly. Past the end of an array this asks for nothing of use.
template <class T>
HWY_INLINE void prefetch_slice(const T* data, std::int64_t width, std::int64_t row,
                               std::int64_t slice, std::int64_t count) {
  constexpr auto kLine = static_cast<std::int64_t>(64 / sizeof(T));
  constexpr int kToL2 = 2;
  const std::int64_t begin = (row + kChunk * slice / count) * width;
  const std::int64_t end = (row + kChunk * (slice + 1) / count) * width;
  for (std::int64_t i = begin; i < end; i += kLine) __builtin_prefetch(data + i, 0, kToL2);
}

// Weight gradient in general. The samples are cut into two halves that are summed apart, and each
// half into blocks of rows of dw (of one tap each; the bias is one block more): a thread then
// mostly reads what it wrote itself in the kernels before, instead of waiting for other cores'
// caches. In the end the second half's sums are added. All of that is fixed, whatever the number of
// threads.
template <class T>
void accumulate_weights(CpuQueue& queue, const Conv1dBackwardParams<T>& call) {
  const Conv1dDims& dims = call.dims;
  const T *x = call.x, *dy = call.dy;
  T *dw = call.dw.data, *db = call.db.data;
  constexpr std::int64_t kBlock = 8;
  const std::int64_t length_out = dims.length_out(), stride = dims.stride;
  const std::int64_t blocks_per_tap = (dims.channels_in + kBlock - 1) / kBlock;
  const std::int64_t blocks = dims.kernel_size * blocks_per_tap + 1;
  const std::int64_t weights = dims.kernel_size * dims.channels_in * dims.channels_out;
  const std::int64_t sums = weights + dims.channels_out;
  T* second = static_cast<T*>(queue.scratch(static_cast<std::size_t>(sums) * sizeof(T)));

  const auto accumulate = [&](std::int64_t block, std::int64_t n, std::int64_t l0, std::int64_t l1,
                              T* out, T* out_bias) {
    if (block == blocks - 1) {
      if (out_bias) accumulate_bias(dims, dy, n, l0, l1, out_bias);
      return;
    }
    const std::int64_t tap = block / blocks_per_tap;
    const std::int64_t channel = block % blocks_per_tap * kBlock;
    // Positions that this tap reads from inside x; the padding's zeros add nothing.
    const std::int64_t shift = tap - dims.padding;
    const std::int64_t from = std::max(l0, (stride - 1 - shift) / stride);
    const std::int64_t to = std::min(l1, (dims.length + stride - 1 - shift) / stride);
    if (from >= to) return;
    accumulate_block(
        x + (n * dims.length + from * stride + shift) * dims.channels_in + channel,
        stride * dims.channels_in, std::min(kBlock, dims.channels_in - channel),
        dy + (n * length_out + from) * dims.channels_out, dims.channels_out, dims.channels_out,
        to - from, out + (tap * dims.channels_in + channel) * dims.channels_out, dims.channels_out);
  };
  // Where a block's sums begin among those of its half.
  const auto begin_of = [&](std::int64_t block) {
    if (block >= blocks - 1) return block == blocks ? sums : weights;
    return (block / blocks_per_tap * dims.channels_in + block % blocks_per_tap * kBlock) *
           dims.channels_out;
  };
  // Blocks [first, last) of the samples [n0, n1).
  const auto accumulate_blocks = [&](std::int64_t first, std::int64_t last, std::int64_t n0,
                                     std::int64_t n1, T* out, T* out_bias) {
    for_chunks(dims, n0, n1, [&](std::int64_t n, std::int64_t l0, std::int64_t l1) {
      for (std::int64_t block = first; block < last; ++block) {
        prefetch_slice(x + n * dims.length * dims.channels_in, stride * dims.channels_in, l1,
                       block - first, last - first);
        prefetch_slice(dy, dims.channels_out, n * length_out + l1, block - first, last - first);
        accumulate(block, n, l0, l1, out, out_bias);
      }
    });
  };

  const std::int64_t half = dims.batch / 2;
  queue.parallel_for(2 * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    if (begin < blocks) accumulate_blocks(begin, std::min(end, blocks), 0, half, dw, db);
    if (end > blocks) {
      const std::int64_t first = std::max<std::int64_t>(begin - blocks, 0);
      std::fill(second + begin_of(first), second + begin_of(end - blocks), T(0));
      accumulate_blocks(first, end - blocks, half, dims.batch, second, second + weights);
    }
  });
  queue.parallel_for(weights, 2048, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) dw[i] += second[i];
  });
  for (std::int64_t c = 0; db && c < dims.channels_out; ++c) db[c] += second[weights + c];
}

}  // namespace

template <class T>
void run(CpuQueue& queue, const Conv1dForward<T>& call) {
  multiply_rows(queue, row_product(call));
}

template <class T>
void run(CpuQueue& queue, const Conv1dBackwardInput<T>& call) {
  if (call.dx.data) multiply_rows(queue, row_product(call));
}

template <class T>
void run(CpuQueue& queue, const Conv1dBackwardParams<T>& wanted) {
  Conv1dBackwardParams<T> call = wanted;
  const Conv1dDims& dims = call.dims;
  const std::int64_t weights = dims.kernel_size * dims.channels_in * dims.channels_out;
  if (weights == 0) call.dw.data = nullptr;
  T *dw = call.dw.data, *db = call.db.data;
  clear_unless_accumulating(call.dw, weights);
  clear_unless_accumulating(call.db, dims.channels_out);
  if constexpr (std::is_same_v<T, float>) {
    if (dw && may_filter(queue) && winograd::suits(row_product(Conv1dForward<T>{dims}))) {
      return winograd::accumulate_weights(queue, call);
    }
  }
  if (dw && dims.channels_in > 1 && (dims.channels_out > 1 || dims.stride > 1)) {
    return accumulate_weights(queue, call);
  }
  if (db) {
    for_chunks(dims, 0, dims.batch, [&](std::int64_t n, std::int64_t l0, std::int64_t l1) {
      accumulate_bias(dims, call.dy, n, l0, l1, db);
    });
  }
  if (!dw) return;
  if (dims.channels_in == 1) {
    return accumulate_single_channel(queue, dims, call.x, call.dy, dw, dims.channels_out);
  }
  // One output channel: the same sum with x and dy in each other's place, which runs through the
  // taps backwards.
  const Conv1dDims swapped{
      dims.batch,       dims.length_out(), 1,
      dims.channels_in, dims.kernel_size,  dims.kernel_size - 1 - dims.padding};
  accumulate_single_channel(queue, swapped, call.dy, call.x,
                            dw + (dims.kernel_size - 1) * dims.channels_in, -dims.channels_in);
}

template void run(CpuQueue&, const Conv1dForward<float>&);
template void run(CpuQueue&, const Conv1dForward<double>&);
template void run(CpuQueue&, const Conv1dBackwardInput<float>&);
template void run(CpuQueue&, const Conv1dBackwardInput<double>&);
template void run(CpuQueue&, const Conv1dBackwardParams<float>&);
template void run(CpuQueue&, const Conv1dBackwardParams<double>&);

}  // namespace sidechannel::kernels
