#pragma once

// Matrix products on the CPU: of overlapping rows, which are a convolution, and of rows side by
// side, which are a dense layer (a convolution of one tap).
//
// Tiles of kRows positions x kVectors vectors of output channels stay in registers for the whole
// sum. Rows that reach into the zero padding are copied to a small buffer with the zeros in place.
// Threads split the output; each output element is summed by one thread, in one fixed order,
// whatever the tile that it falls into.

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels/cpu/simd.h"
#include "kernels/queue.h"
#include "kernels/row_product.h"

namespace sidechannel::kernels {

using simd::Full;
using simd::kLanes;
using simd::Vec;
namespace hn = simd::hn;

// Tiles of 24 or fewer registers' worth of sums: 6 rows of a wide panel of vectors, or more rows
// of 2.
inline constexpr int kWidePanel = simd::kManyRegisters ? 4 : 2;
inline constexpr int kTallTile = simd::kManyRegisters ? 8 : 6;

// The right matrix of the product. A layer's weights [taps, columns, channels] are flipped in t and
// transposed for its input gradient: flipped[t, c, j] = w[taps - 1 - t, j, c]. Each thread makes
// its own copy: that takes less time than to wait for a shared one.
template <class T>
const T* right_matrix(const RowProduct<T>& p, simd::AlignedBuffer<T>& buffer) {
  if (!p.flip) return p.w;
  T* flipped = buffer.get(static_cast<std::size_t>(p.depth() * p.columns));
  const std::int64_t tap_size = p.channels * p.columns;
  for (std::int64_t t = 0; t < p.taps; ++t) {
    const T* from = p.w + (p.taps - 1 - t) * p.spread * tap_size;
    simd::transpose(from, p.columns, p.channels, flipped + t * tap_size);
  }
  return flipped;
}

// One tile: kRows rows (each `ldx` after the other) times kVectors vectors of columns of w. Starts
// from the values at `start`, rows `ld_start` apart (0: the same for all rows), or from zero.
template <int kRows, int kVectors, class D, class T>
HWY_INLINE void multiply_tile(D d, const T* HWY_RESTRICT x, std::int64_t ldx,
                              const T* HWY_RESTRICT w, std::int64_t ldw, std::int64_t depth,
                              const T* start, std::int64_t ld_start, T* y, std::int64_t ldy) {
  constexpr std::int64_t lanes = kLanes<D>;
  Vec<D> sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      sum[i][j] = start ? hn::LoadU(d, start + i * ld_start + j * lanes) : hn::Zero(d);
    }
  }
#pragma GCC unroll 4
  for (std::int64_t k = 0; k < depth; ++k) {
    Vec<D> b[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) b[j] = hn::LoadU(d, w + k * ldw + j * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vec<D> a = hn::Set(d, x[i * ldx + k]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] = hn::MulAdd(a, b[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) hn::StoreU(sum[i][j], d, y + i * ldy + j * lanes);
  }
}

// Rows [first, first + kRows) of sample n, stride * channels apart: in place where they lie inside
// x, otherwise copied to `buffer` with zeros for what lies outside.
template <int kRows, class T>
const T* rows_of(const RowProduct<T>& p, std::int64_t n, std::int64_t first,
                 std::vector<T>& buffer) {
  const std::int64_t begin = first * p.stride - p.offset;
  const std::int64_t end = begin + (kRows - 1) * p.stride + p.taps;
  const T* sample = p.x + n * p.length * p.channels;
  if (begin >= 0 && end <= p.length) return sample + begin * p.channels;
  buffer.resize(static_cast<std::size_t>((end - begin) * p.channels));
  const std::int64_t from = std::clamp<std::int64_t>(begin, 0, p.length);
  const std::int64_t to = std::clamp<std::int64_t>(end, from, p.length);
  T* out = std::fill_n(buffer.data(), (from - begin) * p.channels, T(0));
  out = std::copy(sample + from * p.channels, sample + to * p.channels, out);
  std::fill(out, buffer.data() + buffer.size(), T(0));
  return buffer.data();
}

// One tile of a phase of the output, of which the first `rows` rows exist.
template <int kRows, int kVectors, class D, class T>
HWY_INLINE void output_tile(D d, const RowProduct<T>& p, const T* right, const T* x,
                            std::int64_t column, std::int64_t rows, T* y) {
  const T* w = right + column;
  const bool accumulate = p.write == Write::kAccumulate;
  const T* start = p.bias ? p.bias + column : accumulate ? y : nullptr;
  const std::int64_t ldx = p.stride * p.channels, ldy = p.spread * p.columns;
  std::int64_t ld_start = p.bias ? 0 : ldy;
  if (rows == kRows) {
    multiply_tile<kRows, kVectors>(d, x, ldx, w, p.columns, p.depth(), start, ld_start, y, ldy);
    return;
  }
  // The sequence ends inside the tile: compute all rows aside and keep those that exist.
  constexpr std::int64_t width = kVectors * kLanes<D>;
  T aside[kRows * width] = {};
  if (start == y) {
    for (std::int64_t i = 0; i < rows; ++i) std::copy_n(y + i * ldy, width, aside + i * width);
    start = aside;
    ld_start = width;
  }
  multiply_tile<kRows, kVectors>(d, x, ldx, w, p.columns, p.depth(), start, ld_start, aside, width);
  for (std::int64_t i = 0; i < rows; ++i) std::copy_n(aside + i * width, width, y + i * ldy);
}

// Calls finish(y, count) for whole rows of y as soon as they are there, where they are neighbours.
template <int kRows, int kVectors, class T, class Finish>
void multiply_tiles(CpuQueue& queue, const RowProduct<T>& p, const Finish& finish) {
  const Full<T> d;
  constexpr std::int64_t panel = kVectors * kLanes<Full<T>>;
  // The first phase has the most rows.
  const std::int64_t tiles = (p.phase(0).length_out + kRows - 1) / kRows;
  queue.parallel_for(p.batch * tiles, 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local std::vector<T> buffer;
    thread_local simd::AlignedBuffer<T> flipped;
    for (std::int64_t r = 0; r < p.phases(); ++r) {
      const RowProduct<T> phase = p.phase(r);
      const T* right = right_matrix(phase, flipped);
      for (std::int64_t index = begin; index < end; ++index) {
        const std::int64_t n = index / tiles;
        const std::int64_t first = index % tiles * kRows;
        const std::int64_t rows = std::min<std::int64_t>(kRows, phase.length_out - first);
        if (rows <= 0) continue;
        const T* x = rows_of<kRows>(phase, n, first, buffer);
        T* y = phase.y + (n * p.length_out + first * p.spread) * p.columns;
        std::int64_t column = 0;
        for (; column + panel <= p.columns; column += panel) {
          output_tile<kRows, kVectors>(d, phase, right, x, column, rows, y + column);
        }
        simd::for_vectors<T>(column, p.columns, [&](auto narrow, std::int64_t c) {
          output_tile<kRows, 1>(narrow, phase, right, x, c, rows, y + c);
        });
        finish(y, rows * p.columns);
      }
    }
  });
}

// A single output column: the vectors run along the sum instead.
template <class T, class Finish>
void multiply_single_column(CpuQueue& queue, const RowProduct<T>& p, const Finish& finish) {
  using Sum = simd::FixedSum<T>;
  const std::int64_t rows = p.phase(0).length_out;  // no other phase has more
  queue.parallel_for(p.batch * rows, 16, [&](std::int64_t begin, std::int64_t end) {
    thread_local std::vector<T> buffer;
    thread_local simd::AlignedBuffer<T> flipped;
    for (std::int64_t r = 0; r < p.phases(); ++r) {
      const RowProduct<T> phase = p.phase(r);
      const T* w = right_matrix(phase, flipped);
      const std::int64_t depth = phase.depth();
      std::int64_t n = begin / rows, l = begin % rows;
      for (std::int64_t index = begin; index < end; ++index, ++l) {
        if (l == rows) {
          l = 0;
          ++n;
        }
        if (l >= phase.length_out) continue;
        const T* x = rows_of<1>(phase, n, l, buffer);
        Sum products;
        std::int64_t k = 0;
        for (; k + Sum::kTerms <= depth; k += Sum::kTerms) products.add_products(x + k, w + k);
        T sum = products.total();
        for (; k < depth; ++k) sum += x[k] * w[k];
        T& y = phase.y[n * p.length_out + l * p.spread];
        const T before = p.bias ? p.bias[0] : p.write == Write::kAccumulate ? y : T(0);
        y = before + sum;
      }
    }
    finish(p.y + begin, end - begin);
  });
}

// By the definition. `finish` may change what it gets, in place; it gets each value once.
template <class T, class Finish>
void multiply(CpuQueue& queue, const RowProduct<T>& p, const Finish& finish) {
  if (p.columns == 1) return multiply_single_column(queue, p, finish);
  if (p.columns % (kWidePanel * kLanes<Full<T>>) == 0) {
    return multiply_tiles<6, kWidePanel>(queue, p, finish);
  }
  multiply_tiles<kTallTile, 2>(queue, p, finish);
}
template <class T>
void multiply(CpuQueue& queue, const RowProduct<T>& p) {
  multiply(queue, p, [](T*, std::int64_t) {});
}

// Positions whose products are summed in registers before they join the weight gradient in memory:
// few enough that their inputs stay in the L1 cache, and short sums round less.
inline constexpr std::int64_t kChunk = 64;

// out[i, j] += sum over p < positions of a[p * lda + i] * b[p * ldb + j], i < kRows.
template <int kRows, int kVectors, class D, class T>
HWY_INLINE void accumulate_tile(D d, const T* HWY_RESTRICT a, std::int64_t lda,
                                const T* HWY_RESTRICT b, std::int64_t ldb, std::int64_t positions,
                                T* out, std::int64_t ldout) {
  constexpr std::int64_t lanes = kLanes<D>;
  Vec<D> sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sum[i][j] = hn::Zero(d);
  }
  for (std::int64_t p = 0; p < positions; ++p, a += lda, b += ldb) {
    Vec<D> right[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) right[j] = hn::LoadU(d, b + j * lanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vec<D> left = hn::Set(d, a[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] = hn::MulAdd(left, right[j], sum[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      T* o = out + i * ldout + j * lanes;
      hn::StoreU(hn::Add(hn::LoadU(d, o), sum[i][j]), d, o);
    }
  }
}

// out[i, :] += sum over p of a[p, i] * b[p, :] for all `rows` rows and all `columns` columns.
template <class T>
void accumulate_block(const T* a, std::int64_t lda, std::int64_t rows, const T* b, std::int64_t ldb,
                      std::int64_t columns, std::int64_t positions, T* out, std::int64_t ldout) {
  constexpr std::int64_t lanes = kLanes<Full<T>>;
  const auto columns_from = [&](auto row_count, std::int64_t row) {
    constexpr int kRows = decltype(row_count)::value;
    constexpr int kVectors = kRows == 4 && simd::kManyRegisters ? 4 : 2;
    const Full<T> d;
    std::int64_t c = 0;
    for (; c + kVectors * lanes <= columns; c += kVectors * lanes) {
      accumulate_tile<kRows, kVectors>(d, a + row, lda, b + c, ldb, positions,
                                       out + row * ldout + c, ldout);
    }
    simd::for_vectors<T>(c, columns, [&](auto narrow, std::int64_t column) {
      accumulate_tile<kRows, 1>(narrow, a + row, lda, b + column, ldb, positions,
                                out + row * ldout + column, ldout);
    });
  };
  std::int64_t row = 0;
  if (!simd::kManyRegisters || columns % (4 * lanes) != 0) {
    for (; row + kTallTile <= rows; row += kTallTile) {
      columns_from(std::integral_constant<int, kTallTile>(), row);
    }
  }
  for (; row + 4 <= rows; row += 4) columns_from(std::integral_constant<int, 4>(), row);
  for (; row < rows; ++row) columns_from(std::integral_constant<int, 1>(), row);
}

// What the accumulate_* add to begins at zero.
template <class T>
void clear_unless_accumulating(GradOut<T> out, std::int64_t size) {
  if (out.data && out.write == Write::kOverwrite) std::fill_n(out.data, size, T(0));
}

// out[:] += sum over p of b[p, :].
template <class T>
void accumulate_rows(const T* b, std::int64_t ldb, std::int64_t columns, std::int64_t positions,
                     T* out) {
  simd::for_vectors<T>(0, columns, [&](auto d, std::int64_t c) {
    auto sum = hn::Zero(d);
    for (std::int64_t p = 0; p < positions; ++p) sum = hn::Add(sum, hn::LoadU(d, b + p * ldb + c));
    hn::StoreU(hn::Add(hn::LoadU(d, out + c), sum), d, out + c);
  });
}

}  // namespace sidechannel::kernels
