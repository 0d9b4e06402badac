#include "kernels/conv1d.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <type_traits>

#include "engine/gradcheck.h"
#include "tests/harness/conv1d_case.h"
#include "tests/harness/op_check.h"

namespace sidechannel {
namespace {

using harness::brute_force;
using harness::conv1d_dims;
using harness::Draw;
using harness::error_of;
using harness::text;
using harness::Walled;
using kernels::Conv1dDims;
using kernels::CpuQueue;
using kernels::GradOut;

// Larger ones, for the f32 kernels: several chunks of positions, tiles of every width.
const std::vector<Conv1dDims> kLargeDims = {
    {3, 131, 5, 7, 5, 2},
    {2, 200, 32, 32, 5, 2},
    {2, 97, 64, 64, 5, 2},
    {1, 70, 24, 40, 7, 0},
    {2, 129, 1, 64, 5, 2},
    {2, 129, 64, 1, 5, 2},
    {2, 65, 1, 1, 5, 2},
    {1, 64, 63, 65, 3, 2},
    {4, 33, 100, 12, 5, 4},
    {1, 300, 3, 3, 9, 8},
    {2, 90, 130, 66, 1, 0},
    // Gradients by minimal filtering, four positions and 16 channels at a time:
    {1, 8, 32, 32, 5, 2},    // the fewest outputs
    {1, 7, 32, 32, 5, 2},    // one fewer than it takes
    {3, 11, 32, 64, 5, 0},   // valid; a last tile of three positions
    {2, 9, 64, 32, 5, 4},    // more outputs than inputs
    {5, 13, 32, 96, 5, 1},   // uneven padding
    {4, 601, 32, 32, 5, 2},  // all slices of the weight gradient, each of more than one chunk
};

// The matrices of minimal filtering with `outputs` outputs and 9 - outputs taps at the points 0, 1,
// -1, 2, -2, 1/2, -1/2 and infinity (Winograd 1980, as in Lavin & Gray 2016), absolute values.
struct Filtering {
  static constexpr int kPoints = 8;
  double out[5][kPoints] = {};     // |A^T|
  double filter[kPoints][5] = {};  // |G|
  double in[kPoints][kPoints] = {};

  explicit Filtering(int outputs) {
    const std::array<double, 7> points{0, 1, -1, 2, -2, 0.5, -0.5};
    for (std::size_t i = 0; i < points.size(); ++i) {
      double scale = 1;
      std::array<double, kPoints> others{1};  // the coefficients of the product of x - p, p != p_i
      for (std::size_t j = 0; j < points.size(); ++j) {
        if (j == i) continue;
        scale *= points[i] - points[j];
        for (std::size_t k = kPoints - 1; k > 0; --k)
          others[k] = others[k - 1] - points[j] * others[k];
        others[0] *= -points[j];
      }
      for (int k = 0; k < kPoints; ++k) in[i][k] = std::abs(others[static_cast<std::size_t>(k)]);
      for (int t = 0; t < outputs; ++t) out[t][i] = std::abs(std::pow(points[i], t));
      for (int t = 0; t < kPoints + 1 - outputs; ++t)
        filter[i][t] = std::abs(std::pow(points[i], t) / scale);
    }
    // x (x^2 - 1) (x^2 - 4) (x^2 - 1/4)
    const std::array<double, kPoints> all{0, 1, 0, 5.25, 0, 5.25, 0, 1};
    std::copy(all.begin(), all.end(), in[kPoints - 1]);
    out[outputs - 1][kPoints - 1] = 1;
    filter[kPoints - 1][kPoints - outputs] = 1;
  }
};

// What minimal filtering may be off by: the sum of the absolute values of its terms, which are not
// those of the definition. Tiles hold four positions of y, from the first on.
void widen_for_filtering(const Conv1dDims& d, const std::vector<double>& x,
                         const std::vector<double>& w, const std::vector<double>& dy,
                         harness::Conv1dReferences& r) {
  constexpr int kPoints = Filtering::kPoints;
  const auto at = [](const std::vector<double>& v, std::int64_t sample, std::int64_t length,
                     std::int64_t position, std::int64_t channels, std::int64_t c) {
    if (position < 0 || position >= length) return 0.0;
    return std::abs(v[static_cast<std::size_t>((sample * length + position) * channels + c)]);
  };
  const auto transform = [](const auto& matrix, int point, int count, const auto& value) {
    double sum = 0;
    for (int k = 0; k < count; ++k) sum += matrix[point][k] * value(k);
    return sum;
  };
  const Filtering four(4);
  std::fill(r.dx.magnitude.begin(), r.dx.magnitude.end(), 0.0);
  std::vector<double> filters;  // [points, C_out, C_in] of the flipped weights
  for (int point = 0; point < kPoints; ++point) {
    for (std::int64_t co = 0; co < d.channels_out; ++co) {
      for (std::int64_t ci = 0; ci < d.channels_in; ++ci) {
        filters.push_back(transform(four.filter, point, 5, [&](int t) {
          const std::int64_t tap = ((4 - t) * d.channels_in + ci) * d.channels_out + co;
          return std::abs(w[static_cast<std::size_t>(tap)]);
        }));
      }
    }
  }
  for (std::int64_t n = 0; n < d.batch; ++n) {
    for (std::int64_t l = 0; l < d.length; l += 4) {
      for (int point = 0; point < kPoints; ++point) {
        std::vector<double> product(static_cast<std::size_t>(d.channels_in));
        for (std::int64_t co = 0; co < d.channels_out; ++co) {
          const double in = transform(four.in, point, kPoints, [&](int k) {
            return at(dy, n, d.length_out(), l + k - 4 + d.padding, d.channels_out, co);
          });
          for (std::int64_t ci = 0; ci < d.channels_in; ++ci) {
            product[static_cast<std::size_t>(ci)] +=
                in * filters[static_cast<std::size_t>(
                         (point * d.channels_out + co) * d.channels_in + ci)];
          }
        }
        for (std::int64_t row = 0; row < std::min<std::int64_t>(4, d.length - l); ++row) {
          for (std::int64_t ci = 0; ci < d.channels_in; ++ci) {
            r.dx.magnitude[static_cast<std::size_t>((n * d.length + l + row) * d.channels_in +
                                                    ci)] +=
                four.out[row][point] * product[static_cast<std::size_t>(ci)];
          }
        }
      }
    }
  }
  const Filtering five(5);
  std::fill(r.dw.magnitude.begin(), r.dw.magnitude.end(), 0.0);
  for (int point = 0; point < kPoints; ++point) {
    std::vector<double> sums(static_cast<std::size_t>(d.channels_in * d.channels_out));
    for (std::int64_t n = 0; n < d.batch; ++n) {
      for (std::int64_t l = 0; l < d.length_out(); l += 4) {
        std::vector<double> filter;
        for (std::int64_t co = 0; co < d.channels_out; ++co) {
          filter.push_back(transform(five.filter, point, 4, [&](int k) {
            return at(dy, n, d.length_out(), l + k, d.channels_out, co);
          }));
        }
        for (std::int64_t ci = 0; ci < d.channels_in; ++ci) {
          const double in = transform(five.in, point, kPoints, [&](int k) {
            return at(x, n, d.length, l + k - d.padding, d.channels_in, ci);
          });
          for (std::int64_t co = 0; co < d.channels_out; ++co) {
            sums[static_cast<std::size_t>(ci * d.channels_out + co)] +=
                in * filter[static_cast<std::size_t>(co)];
          }
        }
      }
    }
    for (std::size_t t = 0; t < 5; ++t) {
      for (std::size_t i = 0; i < sums.size(); ++i)
        r.dw.magnitude[t * sums.size() + i] += five.out[t][point] * sums[i];
    }
  }
}

template <class T>
void check_kernels(const Conv1dDims& d) {
  SCOPED_TRACE(text(d));
  CpuQueue& queue = harness::queue(2);
  Draw draw(7);
  const auto x = draw.normals<T>(d.batch * d.length * d.channels_in);
  const auto w = draw.normals<T>(d.kernel_size * d.channels_in * d.channels_out);
  const auto b = draw.normals<T>(d.channels_out);
  const auto dy = draw.normals<T>(d.batch * d.length_out() * d.channels_out);
  const auto wide = [](const std::vector<T>& v) { return std::vector<double>(v.begin(), v.end()); };
  harness::Conv1dReferences r = brute_force(d, wide(x), wide(w), wide(b), wide(dy));
  // Where vectors of some width fill the channels, gradients may come by minimal filtering. A term
  // then passes up to 16 roundings more, in the transforms and in the sum of slices.
  const bool filtered = std::is_same_v<T, float> && d.kernel_size == 5 && d.channels_in % 4 == 0 &&
                        d.channels_out % 4 == 0;
  if (filtered) widen_for_filtering(d, wide(x), wide(w), wide(dy), r);
  const std::int64_t more = filtered ? 16 : 0;
  const Walled<T> in(x), weight(w), bias(b), gradient(dy);

  Walled<T> y(static_cast<std::int64_t>(r.y.value.size()));
  run(queue, kernels::Conv1dForward<T>{
                 .dims = d, .x = in.data(), .w = weight.data(), .b = bias.data(), .y = y.data()});
  harness::expect_near<T>("y", y.values(), r.y, d.kernel_size * d.channels_in + 1);
  EXPECT_TRUE(y.walls_stand());

  const auto backward_input = [&](GradOut<T> dx) {
    run(queue, kernels::Conv1dBackwardInput<T>{
                   .dims = d, .dy = gradient.data(), .w = weight.data(), .dx = dx});
  };
  const auto backward_params = [&](GradOut<T> dw, GradOut<T> db) {
    run(queue, kernels::Conv1dBackwardParams<T>{
                   .dims = d, .x = in.data(), .dy = gradient.data(), .dw = dw, .db = db});
  };
  const std::int64_t positions = d.batch * d.length_out();
  harness::expect_gradient<T>("dx", r.dx, d.kernel_size * d.channels_out + more, backward_input);
  harness::expect_gradient<T>("dw", r.dw, positions + more,
                              [&](GradOut<T> dw) { backward_params(dw, {}); });
  harness::expect_gradient<T>("db", r.db, positions,
                              [&](GradOut<T> db) { backward_params({}, db); });
  // Both at once, each with its own way of writing.
  Walled<T> dw(static_cast<std::int64_t>(r.dw.value.size()));
  harness::expect_gradient<T>("db beside dw", r.db, positions,
                              [&](GradOut<T> db) { backward_params({dw.data()}, db); });
  harness::expect_near<T>("dw beside db", dw.values(), r.dw, positions + more);
  EXPECT_TRUE(dw.walls_stand());
  // Nobody asks for anything: nothing happens.
  backward_input({});
  backward_params({}, {});
}

TEST(Conv1d, KernelsAgreeWithTheDefinition) {
  for (const Conv1dDims& dims : conv1d_dims(150)) check_kernels<float>(dims);
  for (const Conv1dDims& dims : kLargeDims) check_kernels<float>(dims);
}

TEST(Conv1d, KernelsAgreeWithTheDefinitionInDouble) {
  for (const Conv1dDims& dims : conv1d_dims(60)) check_kernels<double>(dims);
  for (const Conv1dDims& dims : kLargeDims) check_kernels<double>(dims);
}

TEST(Conv1d, SameBitsWithAnyNumberOfThreads) {
  for (const Conv1dDims& d : kLargeDims) {
    Draw draw(3);
    const auto x = draw.normals<float>(d.batch * d.length * d.channels_in);
    const auto w = draw.normals<float>(d.kernel_size * d.channels_in * d.channels_out);
    const auto b = draw.normals<float>(d.channels_out);
    const auto dy = draw.normals<float>(d.batch * d.length_out() * d.channels_out);
    harness::expect_same_bits(text(d) + " y", [&](CpuQueue& queue) {
      std::vector<float> y(dy.size());
      run(queue, kernels::Conv1dForward<float>{
                     .dims = d, .x = x.data(), .w = w.data(), .b = b.data(), .y = y.data()});
      return y;
    });
    harness::expect_same_bits(text(d) + " dx", [&](CpuQueue& queue) {
      std::vector<float> dx(x.size());
      run(queue, kernels::Conv1dBackwardInput<float>{
                     .dims = d, .dy = dy.data(), .w = w.data(), .dx = {dx.data()}});
      return dx;
    });
    harness::expect_same_bits(text(d) + " dw, db", [&](CpuQueue& queue) {
      std::vector<float> both(w.size() + b.size());
      run(queue, kernels::Conv1dBackwardParams<float>{.dims = d,
                                                      .x = x.data(),
                                                      .dy = dy.data(),
                                                      .dw = {both.data()},
                                                      .db = {both.data() + w.size()}});
      return both;
    });
  }
}

// A sequence's output does not depend on what else is in the batch.
TEST(Conv1d, SameBitsInAnyBatch) {
  const Conv1dDims d{5, 37, 6, 10, 5, 2};
  Draw draw(4);
  const auto x = draw.normals<float>(d.batch * d.length * d.channels_in);
  const auto w = draw.normals<float>(d.kernel_size * d.channels_in * d.channels_out);
  const auto b = draw.normals<float>(d.channels_out);
  const std::int64_t out = d.length_out() * d.channels_out;
  std::vector<float> together(static_cast<std::size_t>(d.batch * out));
  run(harness::queue(2),
      kernels::Conv1dForward<float>{
          .dims = d, .x = x.data(), .w = w.data(), .b = b.data(), .y = together.data()});
  Conv1dDims one = d;
  one.batch = 1;
  for (std::int64_t n = 0; n < d.batch; ++n) {
    std::vector<float> alone(static_cast<std::size_t>(out));
    run(harness::queue(1),
        kernels::Conv1dForward<float>{.dims = one,
                                      .x = x.data() + n * d.length * d.channels_in,
                                      .w = w.data(),
                                      .b = b.data(),
                                      .y = alone.data()});
    EXPECT_EQ(std::memcmp(alone.data(), together.data() + n * out, alone.size() * sizeof(float)),
              0);
  }
}

TEST(Conv1d, Gradients) {
  Draw draw(1);
  std::uint64_t seed = 0;
  for (const Conv1dDims& d : conv1d_dims(150)) {
    const std::vector<Tensor> inputs = {draw.tensor({d.batch, d.length, d.channels_in}),
                                        draw.tensor({d.kernel_size, d.channels_in, d.channels_out}),
                                        draw.tensor({d.channels_out})};
    GradientCheckOptions options;
    options.seed = ++seed;
    options.max_elements = 48;  // and random directions over all of them
    const GradientCheck check = check_gradients(
        [&](Tape&, std::span<const Var> in) { return conv1d(in[0], in[1], in[2], d.padding); },
        inputs, options);
    EXPECT_TRUE(check.passed()) << text(d) << "\n" << check.message();
  }
}

TEST(Conv1d, RefusesWrongShapes) {
  Tape tape(harness::device(), DType::kF64);
  const auto conv = [&](Shape x, Shape w, Shape b, std::int64_t padding) {
    return error_of([&] { conv1d(tape.make(x), tape.make(w), tape.make(b), padding); });
  };
  EXPECT_EQ(conv({2, 9, 3}, {5, 3, 4}, {4}, 2), "no error");
  EXPECT_EQ(conv({2, 9}, {5, 3, 4}, {4}, 2), "conv1d: expected x of shape [N, L, C], got [2, 9]");
  EXPECT_EQ(conv({2, 9, 3}, {5, 3}, {4}, 2),
            "conv1d: expected a weight of shape [k, C_in, C_out], got [5, 3]");
  EXPECT_EQ(conv({2, 9, 3}, {5, 2, 4}, {4}, 2), "conv1d: weight expects C_in = 2, got x of C = 3");
  EXPECT_EQ(conv({2, 9, 3}, {5, 3, 4}, {3}, 2), "conv1d: expected a bias of shape [4], got [3]");
  EXPECT_EQ(conv({2, 9, 3}, {5, 3, 4}, {4}, 5),
            "conv1d: expected a padding from 0 to k - 1 = 4, got 5");
  EXPECT_EQ(conv({2, 9, 3}, {5, 3, 4}, {4}, -1),
            "conv1d: expected a padding from 0 to k - 1 = 4, got -1");
  EXPECT_EQ(conv({2, 4, 3}, {5, 3, 4}, {4}, 0),
            "conv1d: a kernel of 5 with padding 0 does not fit into a sequence of 4");
}

}  // namespace
}  // namespace sidechannel
