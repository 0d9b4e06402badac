// How far normalization in f32 is off, far from zero and over long sets, on any device: the cases
// of tests/golden/generate_norm_errors.py, which says what the errors are.

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "engine/io/npy.h"
#include "tests/harness/backends.h"
#include "tests/harness/norm_check.h"
#include "tests/harness/program.h"

namespace sidechannel {
namespace {

using harness::kUnitRoundoff;
using harness::NormBuffers;
using harness::NormCase;
using harness::Reference;
using harness::SetStatistics;
using harness::statistics_of;
using harness::test_data;
using enum kernels::Activation;

// Nearly normal numbers of deviation 1, the same as in the generator.
std::vector<double> draws(std::int64_t count, std::uint64_t stream) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint64_t z = (i + 1 + (stream << 32)) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    std::int64_t total = -2 * 65535;
    for (int quarter = 0; quarter < 4; ++quarter) {
      total += static_cast<std::int64_t>(z >> (16 * quarter) & 0xFFFF);
    }
    values[i] = static_cast<double>(total) * (std::sqrt(3.0) / 65536);
  }
  return values;
}

// y, dx, and dgamma summed over each set.
using NormResults = std::array<std::vector<double>, 3>;

// Forward and backward in f32.
template <class Backend>
NormResults norm_in_f32(const NormCase& c) {
  NormBuffers<Backend, float> b(c);
  run(Backend::queue(), b.forward());
  kernels::NormBackward<float> backward = b.backward();
  backward.dbeta = {};
  run(Backend::queue(), backward);
  NormResults results = {harness::widened(b.y.values()), harness::widened(b.dx.values()), {}};
  results[2].resize(b.dgamma.values().size());
  for (std::size_t i = 0; i < results[2].size(); ++i) {
    const auto set = static_cast<std::size_t>(c.dims.channels_per_set);
    results[2][i / set * set] += b.dgamma.values()[i];
  }
  return results;
}

// The same from the definition, in f64; and for each result the largest sum of its terms' absolute
// values.
NormResults norm_in_f64(const NormCase& c, std::array<double, 3>& magnitude) {
  const SetStatistics s = statistics_of(c);
  const auto count = static_cast<double>(c.dims.set_size());
  const auto set_of = [&](std::size_t i) {
    return c.statistic_of(i) - c.channel_of(i) % static_cast<std::size_t>(c.dims.channels_per_set);
  };
  const auto sets = static_cast<std::int64_t>(s.mean.size());
  NormResults r{std::vector<double>(c.x.size()), std::vector<double>(c.x.size()), {}};
  auto& [y, dx, dgamma] = r;
  Reference sum(sets), sum_x_hat(sets);
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    y[i] = (c.x[i] - s.mean[set_of(i)]) * s.rstd[set_of(i)];
    sum.add(static_cast<std::int64_t>(set_of(i)), c.dy[i]);
    sum_x_hat.add(static_cast<std::int64_t>(set_of(i)), c.dy[i] * y[i]);
  }
  dgamma = sum_x_hat.value;
  magnitude = {};
  for (std::size_t i = 0; i < c.x.size(); ++i) {
    const std::size_t set = set_of(i);
    dx[i] = s.rstd[set] * (c.dy[i] - sum.value[set] / count - y[i] * dgamma[set] / count);
    const double terms = std::abs(c.dy[i]) + sum.magnitude[set] / count +
                         std::abs(y[i]) * sum_x_hat.magnitude[set] / count;
    magnitude[0] = std::max(magnitude[0], std::abs(y[i]));
    magnitude[1] = std::max(magnitude[1], s.rstd[set] * terms);
    magnitude[2] = std::max(magnitude[2], sum_x_hat.magnitude[set]);
  }
  return r;
}

// InstanceNorm, GroupNorm, LayerNorm, and BatchNorm of two samples, of four channels.
std::array<kernels::NormDims, 4> accuracy_dims(std::int64_t length) {
  constexpr double kEpsilon = 1e-5;
  return {{{1, length, 4, 1, 1, kEpsilon, kNone},
           {1, length, 4, 2, 1, kEpsilon, kNone},
           {1, length, 4, 4, 1, kEpsilon, kNone},
           {2, length, 4, 1, 2, kEpsilon, kNone}}};
}

// Never further from f64 than PyTorch's better layer, or than three roundings of the terms, where
// it is chance which of two results is nearer. And within the bound that holds always.
BACKEND_TEST(NormAccuracy, IsNeverWorseThanPyTorchs) {
  constexpr std::array<std::int64_t, 10> kLengths = {1,   2,    3,    10,    100,
                                                     600, 1000, 4096, 10000, 100000};
  constexpr std::size_t kOffsets = 7;
  const HostArray table = read_npy(test_data("golden/norm_errors.npy"));
  ASSERT_EQ(table.shape, (Shape{4, kOffsets, kLengths.size(), 3}));
  for (std::size_t l = 0; l < kLengths.size(); ++l) {
    for (std::size_t kind = 0; kind < 4; ++kind) {
      NormCase c{accuracy_dims(kLengths[l])[kind], {}, {1, 1, 1, 1}, {0, 0, 0, 0}, {}};
      const std::vector<double> deviations = draws(c.dims.size(), 1);
      c.dy = draws(c.dims.size(), 2);
      for (double& dy : c.dy) dy = static_cast<float>(dy);
      for (std::size_t power = 0; power < kOffsets; ++power) {
        const double offset = std::pow(10, power);
        c.x = deviations;
        for (double& x : c.x) x = static_cast<float>(offset + x);
        SCOPED_TRACE(c.text() + " offset=" + std::to_string(offset));
        std::array<double, 3> magnitude;
        const NormResults expected = norm_in_f64(c, magnitude);
        const NormResults actual = norm_in_f32<Backend>(c);
        const double* pytorch =
            &table.as<double>()[((kind * kOffsets + power) * kLengths.size() + l) * 3];
        constexpr std::array<const char*, 3> kNames = {"y", "dx", "dgamma"};
        for (std::size_t r = 0; r < 3; ++r) {
          double error = 0;
          for (std::size_t i = 0; i < actual[r].size(); ++i) {
            error = std::max(error, std::abs(actual[r][i] - expected[r][i]));
          }
          const double roundings = 3 * kUnitRoundoff<float> * magnitude[r];
          EXPECT_LE(error, std::max(roundings, pytorch[r])) << kNames[r];
        }
        if (kLengths[l] <= 4096) check_norm_forward<Backend, float>(Backend::queue(), c);
      }
    }
  }
}

// Every value of a set the same, and one that f32 does not have to begin with: y is exactly beta,
// and nothing comes back.
BACKEND_TEST(NormAccuracy, ConstantSetsBecomeExactlyBeta) {
  for (const double value : {1e4 / 3, 100 / 3.0, 1e6 / 7, -0.1, 1e-3 / 3, 1e20 / 3}) {
    for (const std::int64_t length : {1, 7, 600, 4096, 9001}) {
      for (const kernels::NormDims& dims : accuracy_dims(length)) {
        NormCase c{dims, {}, {1, 2, 3, 4}, {0, 0.5, -1, 2}, {}};
        c.x.assign(static_cast<std::size_t>(dims.size()), static_cast<float>(value));
        c.dy.assign(c.x.size(), 1);
        SCOPED_TRACE(c.text() + " value=" + std::to_string(value));
        const NormResults actual = norm_in_f32<Backend>(c);
        for (std::size_t i = 0; i < c.x.size(); ++i) {
          ASSERT_EQ(actual[0][i], c.beta[c.channel_of(i)]);
        }
        for (const double dgamma : actual[2]) ASSERT_EQ(dgamma, 0);
      }
    }
  }
}

// By their mean square constants are 1 or -1: far from zero, nothing cancels. A rounding of the
// mean, of its square and of the sum; of rstd (3), of the product with gamma, and of y (2).
BACKEND_TEST(NormAccuracy, ConstantSetsHaveTheirOwnMeanSquare) {
  for (const double value : {1e4 / 3, 100 / 3.0, 1e6 / 7, -0.7, 1e15 / 3, 1e30 / 3}) {
    for (const std::int64_t length : {1, 7, 600, 4096, 9001}) {
      for (kernels::NormDims dims : accuracy_dims(length)) {
        dims.centred = false;
        NormCase c{dims, {}, {1, 1, 1, 1}, {0, 0, 0, 0}, {}};
        const double x = static_cast<float>(value);
        c.x.assign(static_cast<std::size_t>(dims.size()), x);
        c.dy.assign(c.x.size(), 1);
        SCOPED_TRACE(c.text() + " value=" + std::to_string(value));
        const double expected = x / std::sqrt(x * x + dims.epsilon);
        const NormResults actual = norm_in_f32<Backend>(c);
        for (const double y : actual[0]) {
          if (value > 1e20) {  // beyond the range of squares
            ASSERT_TRUE(std::isnan(y));
          } else {
            ASSERT_NEAR(y, expected, 9 * kUnitRoundoff<float>);
          }
        }
      }
    }
  }
}

// Beyond the range of squares: NaN, never a wrong number.
BACKEND_TEST(NormAccuracy, BeyondTheRangeOfSquaresIsNaN) {
  for (const std::int64_t length : {4, 9001}) {
    for (const kernels::NormDims& dims : accuracy_dims(length)) {
      NormCase c{dims, draws(dims.size(), 1), {1, 1, 1, 1}, {0, 0, 0, 0}, draws(dims.size(), 2)};
      const std::vector<double> deviations = c.x;
      for (const double scale : {1e-2, 1e15, 1e16, 1e25, 1e37}) {
        for (std::size_t i = 0; i < c.x.size(); ++i) {
          c.x[i] = static_cast<float>(scale * deviations[i]);
        }
        SCOPED_TRACE(c.text() + " scale=" + std::to_string(scale));
        if (scale < 1e20) {
          check_norm_forward<Backend, float>(Backend::queue(), c);
        } else {
          const NormResults actual = norm_in_f32<Backend>(c);
          for (const double y : actual[0]) ASSERT_TRUE(std::isnan(y));
        }
      }
    }
  }
}

}  // namespace
}  // namespace sidechannel
