#pragma once

// What the references of convolutions are made of.

#include <Eigen/Core>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/conv1d.h"
#include "tests/harness/op_check.h"

namespace sidechannel::harness {

// Calls f(place in x, place in w, place in y) for each product of the definition
// (kernels/conv1d.h).
template <class F>
void for_products(const kernels::Conv1dDims& d, const F& f) {
  for (std::int64_t n = 0; n < d.batch; ++n) {
    for (std::int64_t l = 0; l < d.length_out(); ++l) {
      for (std::int64_t co = 0; co < d.channels_out; ++co) {
        const std::int64_t out = (n * d.length_out() + l) * d.channels_out + co;
        for (std::int64_t t = 0; t < d.kernel_size; ++t) {
          const std::int64_t position = l * d.stride + t - d.padding;
          if (position < 0 || position >= d.length) continue;
          for (std::int64_t ci = 0; ci < d.channels_in; ++ci) {
            f((n * d.length + position) * d.channels_in + ci,
              (t * d.channels_in + ci) * d.channels_out + co, out);
          }
        }
      }
    }
  }
}

// 11 significant bits.
inline double to_tf32(double x) {
  auto value = static_cast<float>(x);
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x1000u) & ~0x1fffu;
  std::memcpy(&value, &bits, sizeof bits);
  return value;
}

// How a kernel makes products, and sums of them: as they stand; of operands in TF32, on tensor
// cores; of operands that are split into two numbers in TF32, there.
enum class Products { kPlain, kTf32, kSplit };

// How many roundings a term of a sum of `count` products is worth, `steps` times eight of them or
// fewer (docs/numerics.md). Tensor cores cut off where others round: twice the error, at most.
// Split operands leave out 8 roundings' worth; parts of eight products are off by 24.1 of the
// whole, and are added up as others are.
inline std::int64_t roundings_of(Products how, std::int64_t count, std::int64_t steps) {
  switch (how) {
    case Products::kTf32:
      return 2 * count;
    case Products::kSplit:
      return 33 + steps;
    default:
      return count;
  }
}

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// The matrices of minimal filtering with `outputs` outputs and 9 - outputs taps at the points 0, 1,
// -1, 2, -2, 1/2, -1/2 and infinity (Winograd 1980, as in Lavin & Gray 2016), absolute values.
struct Filtering {
  static constexpr int kPoints = 8;
  Matrix out, filter, in;  // |A^T|, |G|, |B^T|

  explicit Filtering(int outputs)
      : out(Matrix::Zero(outputs, kPoints)),
        filter(Matrix::Zero(kPoints, kPoints + 1 - outputs)),
        in(Matrix::Zero(kPoints, kPoints)) {
    const std::array<double, 7> points{0, 1, -1, 2, -2, 0.5, -0.5};
    for (int i = 0; i < kPoints - 1; ++i) {
      const double point = points[static_cast<std::size_t>(i)];
      double scale = 1;
      in(i, 0) = 1;  // the coefficients of the product of x - p, p != p_i
      for (const double other : points) {
        if (other == point) continue;
        scale *= point - other;
        for (int k = kPoints - 1; k > 0; --k) in(i, k) = in(i, k - 1) - other * in(i, k);
        in(i, 0) *= -other;
      }
      for (int t = 0; t < outputs; ++t) out(t, i) = std::pow(point, t);
      for (int t = 0; t < filter.cols(); ++t) filter(i, t) = std::pow(point, t) / scale;
    }
    in.row(kPoints - 1) << 0, 1, 0, 5.25, 0, 5.25, 0, 1;  // x (x^2 - 1) (x^2 - 4) (x^2 - 1/4)
    out(outputs - 1, kPoints - 1) = 1;
    filter(kPoints - 1, kPoints - outputs) = 1;
    for (Matrix* matrix : {&out, &filter, &in}) *matrix = matrix->cwiseAbs();
  }
};

// What minimal filtering may be off by: the sum of the absolute values of its terms, which are not
// those of the definition. Tiles hold four positions of y, from the first on.
template <class Values>
void widen_for_filtering(const kernels::Conv1dDims& d, const Values& x, const Values& w,
                         const Values& dy, Reference& dx, Reference& dw) {
  constexpr int kPoints = Filtering::kPoints;
  // |values| of a sample at `count` positions; 0 outside of its `length`.
  const auto tile = [](const auto& values, std::int64_t sample, std::int64_t length,
                       std::int64_t channels, std::int64_t first, std::int64_t count) {
    Matrix all = Matrix::Zero(count, channels);
    for (std::int64_t i = 0; i < count * channels; ++i) {
      const std::int64_t position = first + i / channels;
      if (position < 0 || position >= length) continue;
      const std::int64_t at = (sample * length + position) * channels + i % channels;
      all.data()[i] = std::abs(double(values[static_cast<std::size_t>(at)]));
    }
    return all;
  };
  const Filtering four(4), five(5);
  std::vector<Matrix> filters, sums;  // of each point [C_in, C_out]: of the flipped weights; of dw
  for (int i = 0; i < kPoints; ++i) {
    filters.push_back(Matrix::Zero(d.channels_in, d.channels_out));
    sums.push_back(filters.back());
    for (int t = 0; t < 5; ++t) {
      filters.back() +=
          four.filter(i, t) * tile(w, 4 - t, d.channels_in, d.channels_out, 0, d.channels_in);
    }
  }
  for (std::int64_t n = 0; n < d.batch; ++n) {
    for (std::int64_t l = 0; l < d.length; l += 4) {
      const Matrix in =
          four.in * tile(dy, n, d.length_out(), d.channels_out, l - 4 + d.padding, kPoints);
      Matrix products(kPoints, d.channels_in);
      for (int i = 0; i < kPoints; ++i) {
        products.row(i) = in.row(i) * filters[static_cast<std::size_t>(i)].transpose();
      }
      const Matrix out = four.out * products;
      const std::int64_t rows = std::min<std::int64_t>(4, d.length - l);
      std::copy_n(out.data(), rows * d.channels_in,
                  &dx.magnitude[static_cast<std::size_t>((n * d.length + l) * d.channels_in)]);
    }
    for (std::int64_t l = 0; l < d.length_out(); l += 4) {
      const Matrix in = five.in * tile(x, n, d.length, d.channels_in, l - d.padding, kPoints);
      const Matrix filter = five.filter * tile(dy, n, d.length_out(), d.channels_out, l, 4);
      for (int i = 0; i < kPoints; ++i) {
        sums[static_cast<std::size_t>(i)] += in.row(i).transpose() * filter.row(i);
      }
    }
  }
  for (int t = 0; t < 5; ++t) {
    Matrix tap = Matrix::Zero(d.channels_in, d.channels_out);
    for (int i = 0; i < kPoints; ++i) tap += five.out(t, i) * sums[static_cast<std::size_t>(i)];
    std::copy_n(tap.data(), tap.size(), &dw.magnitude[static_cast<std::size_t>(t * tap.size())]);
  }
}

}  // namespace sidechannel::harness
