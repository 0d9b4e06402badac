#pragma once

// The gradients of a convolution of five taps by minimal filtering (Winograd 1980), with 2.5 times
// fewer multiplications than the definition.
//
// Four neighbouring outputs y of a filter w of five taps, and the eight inputs x that they need,
// make up a product of polynomials, which is known from its values at eight points (0, 1, -1, 2,
// -2, 1/2, -1/2 and infinity):
//
//   y = A^T ((G w) * (B^T x))        A^T [4, 8], G [8, 5], B^T [8, 8]
//
// With channels, `*` is one matrix product [tiles, C_in] x [C_in, C_out] for each of the points.
// The input gradient is such a convolution, of dy with the flipped weights. The weight gradient is
// one with four taps (four positions of dy) and five outputs, so its matrices are A^T [5, 8],
// G [8, 4] and the same B^T; its sum over all tiles is taken before A^T.
//
// Only gradients are computed in this way, and only where the queue's ConvGradients let them. An
// output of this formula depends on inputs beyond its five taps, whose influences cancel but for
// their rounding, and a forward pass must not do that in an engine whose subject is what networks
// hear from beyond their receptive field. Errors: see docs/numerics.md.

#include <array>

#include "kernels/conv1d.h"
#include "kernels/cpu/row_product.h"

namespace sidechannel::kernels::winograd {

constexpr int kTaps = 5;
constexpr int kOutputs = 4;
constexpr int kPoints = 8;
static_assert(16 % kLanes<Full<float>> == 0);  // see suits()

// Whether there are transforms for it, and they pay: a convolution of stride 1 with enough outputs,
// whose channels fill whole vectors and whose columns fill whole panels of the register tiles, of
// AVX-512's width. The same numbers for every instruction set: the two ways round differently.
template <class T>
bool suits(const RowProduct<T>& p) {
  return p.taps == kTaps && p.stride == 1 && p.spread == 1 && p.length_out >= 2 * kOutputs &&
         p.channels % 16 == 0 && p.columns % 32 == 0;
}

// A pair of points p and -p: `scale` = 1 / the product of p's distances from all other points.
struct PointPair {
  double p;
  double scale;
};
constexpr std::array<PointPair, 3> kPairs{{{1.0, -1 / 4.5}, {2.0, 1 / 90.0}, {0.5, 32 / 45.0}}};

// u[point, i] = sum over t of G[point, t] * w[t, i], for i < size.
template <class T>
void transform_weights(const T* w, std::int64_t size, T* u) {
  simd::for_vectors<T>(0, size, [&](auto d, std::int64_t i) {
    Vec<decltype(d)> tap[kTaps];
#pragma GCC unroll 5
    for (int t = 0; t < kTaps; ++t) tap[t] = hn::LoadU(d, w + t * size + i);
    hn::StoreU(hn::Neg(tap[0]), d, u + i);
#pragma GCC unroll 3
    for (int pair = 0; pair < 3; ++pair) {
      const auto [p, scale] = kPairs[static_cast<std::size_t>(pair)];
      const auto c = [&](double value) { return hn::Set(d, static_cast<T>(value)); };
      const auto even = hn::MulAdd(c(scale * p * p * p * p), tap[4],
                                   hn::MulAdd(c(scale * p * p), tap[2], hn::Mul(c(scale), tap[0])));
      const auto odd = hn::MulAdd(c(scale * p * p * p), tap[3], hn::Mul(c(scale * p), tap[1]));
      hn::StoreU(hn::Add(even, odd), d, u + (1 + 2 * pair) * size + i);
      hn::StoreU(hn::Sub(even, odd), d, u + (2 + 2 * pair) * size + i);
    }
    hn::StoreU(tap[4], d, u + 7 * size + i);
  });
}

// v[point, c] = B^T x for eight positions of x, `channels` apart; v's points are `ldv` apart.
template <class T>
void transform_inputs(const T* x, std::int64_t channels, T* v, std::int64_t ldv) {
  const Full<T> d;
  const auto c = [&](float value) { return hn::Set(d, static_cast<T>(value)); };
  for (std::int64_t i = 0; i < channels; i += kLanes<Full<T>>) {
    Vec<Full<T>> a[kPoints];
#pragma GCC unroll 8
    for (int k = 0; k < kPoints; ++k) a[k] = hn::LoadU(d, x + k * channels + i);
    const auto store = [&](int point, auto value) { hn::StoreU(value, d, v + point * ldv + i); };
    const auto store_pair = [&](int point, auto even, auto odd) {
      store(point, hn::Add(even, odd));
      store(point + 1, hn::Sub(even, odd));
    };
    store(0, hn::MulAdd(c(5.25f), hn::Sub(a[2], a[4]), hn::Sub(a[6], a[0])));
    store_pair(1, hn::NegMulAdd(c(4.25f), a[4], hn::Add(a[2], a[6])),
               hn::NegMulAdd(c(4.25f), a[3], hn::Add(a[1], a[5])));
    store_pair(3, hn::MulAdd(c(0.25f), a[2], hn::NegMulAdd(c(1.25f), a[4], a[6])),
               hn::MulAdd(c(0.5f), a[1], hn::NegMulAdd(c(2.5f), a[3], hn::Add(a[5], a[5]))));
    store_pair(5, hn::MulAdd(c(4.0f), a[2], hn::NegMulAdd(c(5.0f), a[4], a[6])),
               hn::MulAdd(c(2.0f), a[1], hn::NegMulAdd(c(2.5f), a[3], hn::Mul(c(0.5f), a[5]))));
    store(7, hn::MulAdd(c(5.25f), hn::Sub(a[3], a[5]), hn::Sub(a[7], a[1])));
  }
}

// A^T m from the eight points of m, `ldm` apart: calls store(row, value) for the four outputs of a
// tile or, with `five`, for the taps of a weight gradient.
template <class D, class T, class Store>
HWY_INLINE void transform_products(D d, const T* m, std::int64_t ldm, bool five, Store&& store) {
  const auto c = [&](float value) { return hn::Set(d, static_cast<T>(value)); };
  const auto at = [&](int point) { return hn::LoadU(d, m + point * ldm); };
  const auto sum1 = hn::Add(at(1), at(2));
  const auto sum2 = hn::Add(at(3), at(4));
  const auto sum3 = hn::Add(at(5), at(6));
  const auto difference1 = hn::Sub(at(1), at(2));
  const auto difference2 = hn::Sub(at(3), at(4));
  const auto difference3 = hn::Sub(at(5), at(6));
  const auto cubes =
      hn::MulAdd(c(8.0f), difference2, hn::MulAdd(c(0.125f), difference3, difference1));
  store(0, hn::Add(hn::Add(at(0), sum1), hn::Add(sum2, sum3)));
  store(1, hn::MulAdd(c(2.0f), difference2, hn::MulAdd(c(0.5f), difference3, difference1)));
  store(2, hn::MulAdd(c(4.0f), sum2, hn::MulAdd(c(0.25f), sum3, sum1)));
  if (five) {
    store(3, cubes);
    store(4, hn::Add(at(7), hn::MulAdd(c(16.0f), sum2, hn::MulAdd(c(0.0625f), sum3, sum1))));
  } else {
    store(3, hn::Add(at(7), cubes));
  }
}

// `rows` <= 4 positions of y = A^T m, or y += it. m's points are `ldm` apart, y's rows `columns`.
template <class T>
void transform_outputs(const T* m, std::int64_t ldm, std::int64_t columns, std::int64_t rows,
                       Write write, T* y) {
  const Full<T> d;
  for (std::int64_t i = 0; i < columns; i += kLanes<Full<T>>) {
    transform_products(d, m + i, ldm, false, [&](std::int64_t row, auto value) {
      if (row >= rows) return;
      T* out = y + row * columns + i;
      hn::StoreU(write == Write::kAccumulate ? hn::Add(hn::LoadU(d, out), value) : value, d, out);
    });
  }
}

// Tiles of a sample.
template <class T>
std::int64_t tiles_per_sample(const RowProduct<T>& p) {
  return (p.length_out + kOutputs - 1) / kOutputs;
}

// G w for the product's weights: [kPoints, channels, columns], in the calling thread's memory.
template <class T>
const T* transformed_weights(const RowProduct<T>& p) {
  thread_local simd::AlignedBuffer<T> flipped, weights;
  T* u = weights.get(static_cast<std::size_t>(kPoints * p.channels * p.columns));
  transform_weights(right_matrix(p, flipped), p.channels * p.columns, u);
  return u;
}

// Blocks [begin, end) of y = rows(x) * w, or y += it, each of kRows tiles of four positions.
// Without bias.
template <int kRows, int kVectors, class T>
void multiply_blocks(const RowProduct<T>& p, const T* u, std::int64_t begin, std::int64_t end) {
  const Full<T> d;
  constexpr std::int64_t panel = kVectors * kLanes<Full<T>>;
  const std::int64_t of_sample = tiles_per_sample(p);
  const std::int64_t tiles = p.batch * of_sample;
  thread_local std::vector<T> edge;
  thread_local simd::AlignedBuffer<T> inputs, products;
  const std::int64_t ldv = kRows * p.channels;
  const std::int64_t ldm = kRows * p.columns;
  T* v = inputs.get(static_cast<std::size_t>(kPoints * ldv));
  T* m = products.get(static_cast<std::size_t>(kPoints * ldm));
  for (std::int64_t block = begin; block < end; ++block) {
    // The last block may have fewer tiles; what its other rows hold is computed and not used.
    const std::int64_t count = std::min<std::int64_t>(kRows, tiles - block * kRows);
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t tile = block * kRows + i;
      transform_inputs(rows_of<kOutputs>(p, tile / of_sample, tile % of_sample * kOutputs, edge),
                       p.channels, v + i * p.channels, ldv);
    }
    if (count < kRows) {
      for (int point = 0; point < kPoints; ++point)
        std::fill_n(v + point * ldv + count * p.channels, (kRows - count) * p.channels, T(0));
    }
    for (int point = 0; point < kPoints; ++point) {
      for (std::int64_t column = 0; column < p.columns; column += panel) {
        multiply_tile<kRows, kVectors>(
            d, v + point * ldv, p.channels, u + point * p.channels * p.columns + column, p.columns,
            p.channels, static_cast<const T*>(nullptr), 0, m + point * ldm + column, p.columns);
      }
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t tile = block * kRows + i;
      const std::int64_t first = tile % of_sample * kOutputs;
      transform_outputs(m + i * p.columns, ldm, p.columns,
                        std::min<std::int64_t>(kOutputs, p.length_out - first), p.write,
                        p.y + (tile / of_sample * p.length_out + first) * p.columns);
    }
  }
}

// Calls f(rows, vectors), of the register tile that fits the product, as constants.
template <class T, class F>
void with_tile(const RowProduct<T>& p, const F& f) {
  using std::integral_constant;
  if (p.columns % (kWidePanel * kLanes<Full<T>>) == 0) {
    return f(integral_constant<int, 6>(), integral_constant<int, kWidePanel>());
  }
  f(integral_constant<int, kTallTile>(), integral_constant<int, 2>());
}

// All of it by the calling thread, with weights that are transformed.
template <class T>
void multiply(const RowProduct<T>& p, const T* u) {
  with_tile(p, [&](auto rows, auto vectors) {
    const std::int64_t tiles = p.batch * tiles_per_sample(p);
    multiply_blocks<rows(), vectors()>(p, u, 0, (tiles + rows() - 1) / rows());
  });
}

template <class T>
void multiply(CpuQueue& queue, const RowProduct<T>& p) {
  with_tile(p, [&](auto rows, auto vectors) {
    const std::int64_t tiles = p.batch * tiles_per_sample(p);
    queue.parallel_for((tiles + rows() - 1) / rows(), 1, [&](std::int64_t begin, std::int64_t end) {
      multiply_blocks<rows(), vectors()>(p, transformed_weights(p), begin, end);
    });
  });
}

// g[point, c] = G dy for four positions of dy as the filter; adds them to `bias` unless it is null.
template <class T>
void transform_gradients(const T* dy, std::int64_t channels, T* g, std::int64_t ldg, T* bias) {
  simd::for_vectors<T>(0, channels, [&](auto d, std::int64_t i) {
    const auto c = [&](double value) { return hn::Set(d, static_cast<T>(value)); };
    Vec<decltype(d)> tap[kOutputs];
#pragma GCC unroll 4
    for (int t = 0; t < kOutputs; ++t) tap[t] = hn::LoadU(d, dy + t * channels + i);
    hn::StoreU(hn::Neg(tap[0]), d, g + i);
#pragma GCC unroll 3
    for (int pair = 0; pair < 3; ++pair) {
      const auto [p, scale] = kPairs[static_cast<std::size_t>(pair)];
      const auto even = hn::MulAdd(c(scale * p * p), tap[2], hn::Mul(c(scale), tap[0]));
      const auto odd = hn::MulAdd(c(scale * p * p * p), tap[3], hn::Mul(c(scale * p), tap[1]));
      hn::StoreU(hn::Add(even, odd), d, g + (1 + 2 * pair) * ldg + i);
      hn::StoreU(hn::Sub(even, odd), d, g + (2 + 2 * pair) * ldg + i);
    }
    hn::StoreU(tap[3], d, g + 7 * ldg + i);
    if (bias == nullptr) return;
    const auto sum = hn::Add(hn::Add(tap[0], tap[1]), hn::Add(tap[2], tap[3]));
    hn::StoreU(hn::Add(hn::LoadU(d, bias + i), sum), d, bias + i);
  });
}

// The weight gradient: the same product, with four positions of dy as the filter and five outputs.
//
// The tiles are cut into slices that are summed apart, by one thread each; the slices are added in
// their order. That is fixed, whatever the number of threads.
constexpr std::int64_t kSliceTiles = 64;  // transformed at a time: they stay in the L2 cache

inline std::int64_t tiles_of(const Conv1dDims& dims) {
  return dims.batch * ((dims.length_out() + kOutputs - 1) / kOutputs);
}
// At most 8, each of at least kSliceTiles.
inline std::int64_t slices_of(const Conv1dDims& dims) {
  return std::clamp<std::int64_t>(tiles_of(dims) / kSliceTiles, 1, 8);
}
// Of one slice: those for dw, then those for db.
inline std::int64_t slice_sums(const Conv1dDims& dims) {
  return kTaps * dims.channels_in * dims.channels_out + dims.channels_out;
}

// The sums of a slice, from its tiles in order, in the memory of the thread that makes it.
template <class T>
class SliceSum {
 public:
  SliceSum(std::int64_t channels_in, std::int64_t channels_out, T* out)
      : in_(channels_in), out_(channels_out), sums_(out), bias_(out + kTaps * in_ * out_) {
    thread_local simd::AlignedBuffer<T> inputs, gradients, products;
    v_ = inputs.get(static_cast<std::size_t>(kPoints * kSliceTiles * in_));
    g_ = gradients.get(static_cast<std::size_t>(kPoints * kSliceTiles * out_));
    m_ = products.get(static_cast<std::size_t>(kPoints * in_ * out_));
    std::fill_n(m_, kPoints * in_ * out_, T(0));
    std::fill_n(bias_, out_, T(0));
  }

  // Adds a tile: the positions from l on of sample n. The call's x and dy.
  void add(const Conv1dBackwardParams<T>& call, std::int64_t n, std::int64_t l) {
    thread_local std::vector<T> edge, aside;
    const std::int64_t ldv = kSliceTiles * in_, ldg = kSliceTiles * out_;
    transform_inputs(rows_of<kOutputs>(
                         row_product(Conv1dForward<T>{.dims = call.dims, .x = call.x}), n, l, edge),
                     in_, v_ + count_ * in_, ldv);
    const T* gradient = call.dy + (n * call.dims.length_out() + l) * out_;
    const std::int64_t there = call.dims.length_out() - l;
    if (there < kOutputs) {
      aside.assign(static_cast<std::size_t>(kOutputs * out_), T(0));
      std::copy_n(gradient, there * out_, aside.data());
      gradient = aside.data();
    }
    transform_gradients(gradient, out_, g_ + count_ * out_, ldg, bias_);
    if (++count_ == kSliceTiles) multiply();
  }

  void finish() {
    multiply();
    simd::for_vectors<T>(0, in_ * out_, [&](auto d, std::int64_t i) {
      transform_products(d, m_ + i, in_ * out_, true, [&](int tap, auto value) {
        hn::StoreU(value, d, sums_ + tap * in_ * out_ + i);
      });
    });
  }

 private:
  void multiply() {
    for (int point = 0; point < kPoints; ++point) {
      accumulate_block(v_ + point * kSliceTiles * in_, in_, in_, g_ + point * kSliceTiles * out_,
                       out_, out_, count_, m_ + point * in_ * out_, out_);
    }
    count_ = 0;
  }

  std::int64_t in_, out_;  // channels
  T *sums_, *bias_;
  T *v_, *g_, *m_;
  std::int64_t count_ = 0;  // tiles that wait for multiply()
};

// out[begin, end) += the slices' sums, one slice after the other.
template <class T>
void add_slices(const T* sums, std::int64_t slices, std::int64_t size, std::int64_t begin,
                std::int64_t end, T* out) {
  for (std::int64_t slice = 0; slice < slices; ++slice) {
    const T* from = sums + slice * size;
    for (std::int64_t i = begin; i < end; ++i) out[i] += from[i];
  }
}

// Adds to what stands in the call's gradients.
template <class T>
void accumulate_weights(CpuQueue& queue, const Conv1dBackwardParams<T>& call) {
  const Conv1dDims& dims = call.dims;
  const std::int64_t tiles = tiles_of(dims), slices = slices_of(dims), size = slice_sums(dims);
  if (tiles == 0) return;
  const std::int64_t of_sample = tiles / dims.batch;
  T* sums = static_cast<T*>(queue.scratch(static_cast<std::size_t>(slices * size) * sizeof(T)));
  queue.parallel_for(slices, 1, [&](std::int64_t first_slice, std::int64_t last_slice) {
    for (std::int64_t slice = first_slice; slice < last_slice; ++slice) {
      SliceSum<T> sum(dims.channels_in, dims.channels_out, sums + slice * size);
      for (std::int64_t tile = tiles * slice / slices; tile < tiles * (slice + 1) / slices;
           ++tile) {
        sum.add(call, tile / of_sample, tile % of_sample * kOutputs);
      }
      sum.finish();
    }
  });
  const std::int64_t weights = size - dims.channels_out;
  queue.parallel_for(weights, 2048, [&](std::int64_t begin, std::int64_t end) {
    add_slices(sums, slices, size, begin, end, call.dw.data);
  });
  if (call.db.data) add_slices(sums + weights, slices, size, 0, dims.channels_out, call.db.data);
}

}  // namespace sidechannel::kernels::winograd
