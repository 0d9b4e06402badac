#pragma once

// What the ways to compute a convolution on the CPU share: the convolution as a product of
// overlapping rows, and the tile that stays in registers.

#include <algorithm>
#include <vector>

#include "kernels/cpu/simd.h"
#include "kernels/queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

using simd::Full;
using simd::kLanes;
using simd::Vec;
namespace hn = simd::hn;

// y = start + rows(x) * w for all positions and all columns of a batch of sequences.
template <class T>
struct RowProduct {
  std::int64_t batch, length, channels;  // x [batch, length, channels]
  std::int64_t length_out, columns;      // y [batch, length_out, columns]
  std::int64_t taps, offset;             // row l spans positions [l - offset, l - offset + taps)
  const T* x;
  const T* w;  // [taps * channels, columns]; as it stands in the layer, to be flipped, if `flip`
  bool flip;
  const T* bias;  // [columns] or null
  T* y;
  Write write;

  std::int64_t depth() const { return taps * channels; }
};

// The right matrix of the product. A layer's weights [taps, columns, channels] are flipped in t and
// transposed for its input gradient: flipped[t, c, j] = w[taps - 1 - t, j, c]. Each thread makes
// its own copy: that takes less time than to wait for a shared one.
template <class T>
const T* right_matrix(const RowProduct<T>& p, simd::AlignedBuffer<T>& buffer) {
  if (!p.flip) return p.w;
  T* flipped = buffer.get(static_cast<std::size_t>(p.depth() * p.columns));
  const std::int64_t tap_size = p.channels * p.columns;
  for (std::int64_t t = 0; t < p.taps; ++t) {
    const T* from = p.w + (p.taps - 1 - t) * tap_size;
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

// Rows [first, first + kRows) of sample n: in place where they lie inside x, otherwise copied to
// `buffer` with zeros for what lies outside.
template <int kRows, class T>
const T* rows_of(const RowProduct<T>& p, std::int64_t n, std::int64_t first,
                 std::vector<T>& buffer) {
  const std::int64_t begin = first - p.offset;
  const std::int64_t end = begin + kRows - 1 + p.taps;
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
  constexpr int kWide = simd::kManyRegisters ? 8 : 4;  // rows of a tile of two vectors
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
  if (columns % (4 * lanes) != 0) {
    for (; row + kWide <= rows; row += kWide) {
      columns_from(std::integral_constant<int, kWide>(), row);
    }
  }
  for (; row + 4 <= rows; row += 4) columns_from(std::integral_constant<int, 4>(), row);
  for (; row < rows; ++row) columns_from(std::integral_constant<int, 1>(), row);
}

}  // namespace sidechannel::kernels
