#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/ops.h"
#include "tests/harness/backends.h"

// The convolution that is led backwards. Its kernels are the convolution's (conv1d_test.cpp); here
// it is the operation that is compared with its definition.

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::Reference;
using harness::values_of;

// --- Shapes -------------------------------------------------------------------------------------

struct Dims {
  std::int64_t batch, length, channels_in, channels_out, kernel_size, padding, stride;

  std::int64_t length_out() const { return (length - 1) * stride - 2 * padding + kernel_size; }
  Shape x() const { return {batch, length, channels_in}; }
  Shape w() const { return {kernel_size, channels_out, channels_in}; }
  Shape b() const { return {channels_out}; }
  Shape y() const { return {batch, length_out(), channels_out}; }
  std::string text() const {
    return fmt::format("N={} L={} C_in={} C_out={} k={} padding={} stride={}", batch, length,
                       channels_in, channels_out, kernel_size, padding, stride);
  }
};

// Each is here for a reason; generated ones follow. No channels for which gradients come by minimal
// filtering or from split operands: such rounding is the convolution's matter.
std::vector<Dims> all_dims(int count) {
  std::vector<Dims> all = {
      {1, 1, 1, 1, 1, 0, 1},     // the smallest
      {2, 5, 3, 2, 4, 1, 2},     // a U-Net's way up: twice as long
      {2, 7, 3, 4, 3, 1, 2},     // an odd length
      {2, 12, 5, 7, 5, 2, 1},    // no stride
      {1, 4, 2, 3, 2, 0, 5},     // a kernel shorter than the stride: positions of bias alone
      {2, 6, 2, 3, 1, 0, 3},     //
      {1, 1, 3, 3, 5, 2, 4},     // one position
      {2, 9, 1, 5, 5, 2, 2},     // one input channel
      {2, 9, 5, 1, 5, 2, 2},     // one output channel
      {2, 9, 1, 1, 4, 1, 2},     // both
      {2, 6, 4, 4, 7, 6, 3},     // the widest padding
      {1, 3, 2, 3, 5, 3, 1},     // one output
      {2, 70, 9, 33, 4, 1, 2},   // several tiles
      {2, 128, 16, 16, 4, 1, 2}  //
  };
  Draw draw(6);
  while (static_cast<int>(all.size()) < count) {
    const std::int64_t k = draw.integer(1, 7);
    const Dims dims{draw.integer(1, 3),
                    draw.integer(1, 9),
                    draw.pick({1, 2, 3, 5, 8}),
                    draw.pick({1, 2, 3, 5, 8}),
                    k,
                    draw.integer(0, k - 1),
                    draw.integer(1, 4)};
    if (dims.length_out() >= 1) all.push_back(dims);
  }
  return all;
}

// --- The definition -----------------------------------------------------------------------------

// Calls f(place in x, place in w, place in y) for each product: what stands at a position of x
// goes, through every tap, to where it lands in y.
template <class F>
void scatter(const Dims& d, const F& f) {
  for (std::int64_t n = 0; n < d.batch; ++n) {
    for (std::int64_t l = 0; l < d.length; ++l) {
      for (std::int64_t t = 0; t < d.kernel_size; ++t) {
        const std::int64_t lands = l * d.stride + t - d.padding;
        if (lands < 0 || lands >= d.length_out()) continue;
        for (std::int64_t co = 0; co < d.channels_out; ++co) {
          for (std::int64_t ci = 0; ci < d.channels_in; ++ci) {
            f((n * d.length + l) * d.channels_in + ci,
              (t * d.channels_out + co) * d.channels_in + ci,
              (n * d.length_out() + lands) * d.channels_out + co);
          }
        }
      }
    }
  }
}

// x, w, b and a cotangent of y.
using Operands = std::vector<Tensor>;

Operands drawn(const Dims& d, const Device& device, DType dtype) {
  Draw draw(9);
  Operands all;
  for (const Shape& shape : {d.x(), d.w(), d.b(), d.y()}) {
    std::vector<double> values = draw.normals<double>(shape.size());
    for (double& value : values) value = std::round(256 * value) / 256;  // exact in every type
    all.push_back(Tensor::from(device, harness::array_of(values, dtype, shape)));
  }
  return all;
}

struct References {
  Reference y, dx, dw, db;

  References(const Dims& d, const Operands& in)
      : y(d.y().size()), dx(d.x().size()), dw(d.w().size()), db(d.channels_out) {
    const auto x = values_of(in[0]), w = values_of(in[1]), b = values_of(in[2]),
               dy = values_of(in[3]);
    const auto at = [](const std::vector<double>& v, std::int64_t i) {
      return v[static_cast<std::size_t>(i)];
    };
    for (std::int64_t out = 0; out < d.y().size(); ++out) {
      y.add(out, at(b, out % d.channels_out));
      db.add(out % d.channels_out, at(dy, out));
    }
    scatter(d, [&](std::int64_t in_x, std::int64_t in_w, std::int64_t in_y) {
      y.add(in_y, at(x, in_x) * at(w, in_w));
      dx.add(in_x, at(dy, in_y) * at(w, in_w));
      dw.add(in_w, at(dy, in_y) * at(x, in_x));
    });
  }
};

// What the operation gives: y, then the gradients of those of x, w and b that are leaves.
constexpr unsigned kAllLeaves = 7;
using Results = std::vector<HostArray>;
Results computed(const Dims& d, const Operands& in, unsigned leaves = kAllLeaves) {
  Tape tape(in[0].device(), in[0].dtype());
  std::vector<Var> inputs;
  for (std::size_t i = 0; i < 3; ++i) {
    inputs.push_back(leaves >> i & 1 ? tape.leaf(in[i]) : tape.constant(in[i]));
  }
  const Var y = conv_transpose1d(inputs[0], inputs[1], inputs[2], d.padding, d.stride);
  if (leaves != 0) tape.backward(y, in[3]);
  Results results = {y.value().to_host()};
  for (const Var& input : inputs) {
    if (input.requires_grad()) results.push_back(tape.gradient(input).to_host());
  }
  return results;
}

std::vector<double> numbers(const HostArray& array) {
  return array.dtype == DType::kF32 ? harness::widened(array.as<float>())
                                    : harness::widened(array.as<double>());
}

// To the bounds of Conv1d.AgreesWithTheDefinition, and so many roundings more.
void expect(const Dims& d, const Results& results, const References& r, std::int64_t more = 0) {
  SCOPED_TRACE(d.text());
  const auto near = [&](const char* what, const HostArray& actual, const Reference& expected,
                        std::int64_t roundings) {
    if (actual.dtype == DType::kF32) {
      harness::expect_near<float>(what, actual.as<float>(), expected, roundings + more);
    } else {
      harness::expect_near<double>(what, actual.as<double>(), expected, roundings + more);
    }
  };
  near("y", results[0], r.y, d.kernel_size * d.channels_in + 1);
  near("dx", results[1], r.dx, d.kernel_size * d.channels_out);
  near("dw", results[2], r.dw, d.batch * d.length);
  near("db", results[3], r.db, d.batch * d.length_out());
}

BACKEND_TEST(ConvTranspose1d, AgreesWithTheDefinition) {
  Backend::for_devices([](const Device& device, DType dtype) {
    for (const Dims& d : all_dims(110)) {
      const Operands in = drawn(d, device, dtype);
      expect(d, computed(d, in), References(d, in));
    }
    // Known-wrong variants: taps in the other order; a kernel of the first two alone.
    const Dims d = {2, 9, 3, 4, 4, 1, 2};
    const Operands in = drawn(d, device, dtype);
    const auto failures = [&](const Dims& of, const Operands& operands) {
      const References r(of, operands);
      const Results results = computed(d, in);
      return harness::failures_of([&] { expect(d, results, r); });
    };
    EXPECT_EQ(failures(d, in), 0);
    Operands reversed = in;
    std::vector<double> w = values_of(in[1]);
    const auto tap = static_cast<std::ptrdiff_t>(d.channels_in * d.channels_out);
    for (std::ptrdiff_t t = 0; t < 2; ++t) {
      std::swap_ranges(w.begin() + t * tap, w.begin() + (t + 1) * tap, w.begin() + (3 - t) * tap);
    }
    reversed[1] = Tensor::from(device, harness::array_of(w, dtype, d.w()));
    EXPECT_GE(failures(d, reversed), 2);
    EXPECT_GE(failures({2, 9, 3, 4, 2, 0, 2}, in), 3);
  });
}

// What nobody asks for is not computed, and the rest has the same bits.
BACKEND_TEST(ConvTranspose1d, GradientsDoNotDependOnWhoElseAsks) {
  const Dims d = {2, 9, 3, 4, 4, 1, 2};
  Backend::for_devices([&](const Device& device, DType dtype) {
    const Operands in = drawn(d, device, dtype);
    const Results all = computed(d, in);
    for (unsigned leaves = 0; leaves < kAllLeaves; ++leaves) {
      const Results some = computed(d, in, leaves);
      EXPECT_EQ(some[0].bytes, all[0].bytes);
      std::size_t at = 0;
      for (std::size_t i = 0; i < 3; ++i) {
        if (leaves >> i & 1) {
          EXPECT_EQ(some[++at].bytes, all[i + 1].bytes) << leaves;
        }
      }
    }
  });
}

// Added to what stands there.
BACKEND_TEST(ConvTranspose1d, GradientsAccumulate) {
  const Dims d = {2, 9, 3, 4, 4, 1, 2};
  Backend::for_devices([&](const Device& device, DType dtype) {
    const Operands in = drawn(d, device, dtype);
    Results results = computed(d, in);
    References r(d, in);
    r.dx.add_all(numbers(results[1]));
    r.dw.add_all(numbers(results[2]));
    r.db.add_all(numbers(results[3]));
    ParameterList list(device, dtype, 1);
    std::vector<Parameter*> parameters;
    Tape tape(device, dtype);
    std::vector<Var> inputs;
    for (std::size_t i = 0; i < 3; ++i) {
      parameters.push_back(&list.add_filled(std::to_string(i), in[i].shape(), 0));
      parameters[i]->value.copy_from(in[i]);
      inputs.push_back(tape.parameter(*parameters[i]));
    }
    const Var y = conv_transpose1d(inputs[0], inputs[1], inputs[2], d.padding, d.stride);
    tape.backward(y, in[3]);
    tape.backward(y, in[3], kernels::Write::kAccumulate);
    for (std::size_t i = 0; i < 3; ++i) results[i + 1] = parameters[i]->grad.to_host();
    expect(d, results, r, 1);
  });
}

TEST(ConvTranspose1d, SameBitsForAnyNumberOfThreads) {
  for (const Dims& d : {Dims{3, 70, 24, 40, 4, 1, 2}, Dims{3, 200, 16, 1, 5, 2, 3}}) {
    for (const DType dtype : {DType::kF32, DType::kF64}) {
      const auto with = [&](int threads) {
        const Device& device = harness::device(threads);
        return computed(d, drawn(d, device, dtype));
      };
      const Results one = with(1);
      for (const int threads : {2, 3}) {
        const Results more = with(threads);
        for (std::size_t i = 0; i < one.size(); ++i) {
          EXPECT_EQ(more[i].bytes, one[i].bytes) << d.text() << ", result " << i;
        }
      }
    }
  }
}

// <conv1d(u), v> = <u, conv_transpose1d(v)>, exactly, of small whole numbers.
BACKEND_TEST(ConvTranspose1d, IsTheConvolutionsAdjoint) {
  Backend::for_devices([](const Device& device, DType dtype) {
    std::vector<Dims> all = all_dims(40);
    all.insert(all.end(), {{2, 20, 32, 32, 5, 2, 1}, {2, 20, 64, 64, 3, 1, 1}});
    for (const Dims& d : all) {
      SCOPED_TRACE(d.text());
      Draw draw(4);
      const auto whole = [&](Shape shape) {
        std::vector<double> values(static_cast<std::size_t>(shape.size()));
        for (double& value : values) value = static_cast<double>(draw.integer(-3, 3));
        return Tensor::from(device, harness::array_of(values, dtype, shape));
      };
      Tape tape(device, dtype);
      const Var u = tape.constant(whole(d.y())), v = tape.constant(whole(d.x())),
                w = tape.constant(whole(d.w()));
      const auto zeros = [&](std::int64_t size) {
        return tape.constant(Tensor::zeros(device, dtype, {size}));
      };
      const auto product = [](const Var& a, const Var& b) {
        EXPECT_EQ(a.shape(), b.shape());
        const std::vector<double> left = values_of(a.value()), right = values_of(b.value());
        double sum = 0;
        for (std::size_t i = 0; i < left.size(); ++i) sum += left[i] * right[i];
        return sum;
      };
      EXPECT_EQ(product(conv1d(u, w, zeros(d.channels_in), d.padding, {.stride = d.stride}), v),
                product(u, conv_transpose1d(v, w, zeros(d.channels_out), d.padding, d.stride)));
    }
  });
}

// A forward pass: what an input does not reach, it does not change by a rounding either. Of five
// taps and 32 channels, for which gradients may be filtered.
BACKEND_TEST(ConvTranspose1d, HearsNothingFromBeyondItsTaps) {
  Backend::for_devices([](const Device& device, DType dtype) {
    for (const std::int64_t stride : {1, 2}) {
      const Dims d = {1, 40, 32, 32, 5, 2, stride};
      const Operands in = drawn(d, device, dtype);
      std::vector<double> x = values_of(in[0]);
      x[20 * 32 + 7] += 1;
      Operands other = in;
      other[0] = Tensor::from(device, harness::array_of(x, dtype, d.x()));
      const std::vector<double> before = numbers(computed(d, in, 0)[0]),
                                after = numbers(computed(d, other, 0)[0]);
      std::int64_t changed = 0;
      for (std::size_t i = 0; i < before.size(); ++i) {
        const auto l = static_cast<std::int64_t>(i) / 32;
        changed += before[i] != after[i];
        if (std::abs(l - 20 * stride) <= 2) continue;
        ASSERT_EQ(before[i], after[i]) << l;
      }
      EXPECT_GT(changed, 0);
    }
  });
}

TEST(ConvTranspose1d, Gradients) {
  Draw draw(1);
  std::uint64_t seed = 0;
  for (const Dims& d : all_dims(130)) {
    harness::expect_gradients(
        [&](Tape&, std::span<const Var> in) {
          return conv_transpose1d(in[0], in[1], in[2], d.padding, d.stride);
        },
        std::vector{draw.tensor(d.x()), draw.tensor(d.w()), draw.tensor(d.b())},
        {.seed = ++seed, .max_elements = 48}, d.text());
  }
}

TEST(ConvTranspose1d, RefusesWrongShapes) {
  Tape tape(harness::device(), DType::kF64);
  const auto conv = [&](Shape x, Shape w, Shape b, std::int64_t padding, std::int64_t stride) {
    return error_of(
        [&] { conv_transpose1d(tape.make(x), tape.make(w), tape.make(b), padding, stride); });
  };
  EXPECT_EQ(conv({2, 9, 3}, {5, 4, 3}, {4}, 2, 2), "no error");
  EXPECT_EQ(conv({2, 1, 3}, {5, 4, 3}, {4}, 2, INT64_MAX), "no error");  // one position
  EXPECT_EQ(conv({2, 9}, {5, 4, 3}, {4}, 2, 2),
            "conv_transpose1d: expected x of shape [N, L, C], got [2, 9]");
  EXPECT_EQ(conv({2, 9, 3}, {5, 3}, {4}, 2, 2),
            "conv_transpose1d: expected a weight of shape [k, C_out, C_in], got [5, 3]");
  EXPECT_EQ(conv({2, 9, 3}, {5, 4, 2}, {4}, 2, 2),
            "conv_transpose1d: weight expects C_in = 2, got x of C = 3");
  EXPECT_EQ(conv({2, 9, 3}, {5, 4, 3}, {3}, 2, 2),
            "conv_transpose1d: expected a bias of shape [4], got [3]");
  EXPECT_EQ(conv({2, 9, 3}, {5, 4, 3}, {4}, 5, 2),
            "conv_transpose1d: expected a padding from 0 to k - 1 = 4, got 5");
  EXPECT_EQ(conv({2, 9, 3}, {5, 4, 3}, {4}, -1, 2),
            "conv_transpose1d: expected a padding from 0 to k - 1 = 4, got -1");
  EXPECT_EQ(conv({2, 9, 3}, {5, 4, 3}, {4}, 2, 0),
            "conv_transpose1d: expected a stride of 1 or more, got 0");
  EXPECT_EQ(conv({2, 2, 3}, {5, 4, 3}, {4}, 3, 1),
            "conv_transpose1d: a kernel of 5 with padding 3 makes nothing of a sequence of 2");
  EXPECT_EQ(conv({2, 3, 3}, {5, 4, 3}, {4}, 2, INT64_MAX),
            "conv_transpose1d: 2 x 9223372036854775807 is beyond 2^63 - 1");
}

}  // namespace
}  // namespace sidechannel
