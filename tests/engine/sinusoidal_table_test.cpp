#include "engine/sinusoidal_table.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/ops.h"
#include "tests/harness/op_check.h"

namespace sidechannel {
namespace {

using harness::error_of;
using harness::values_of;

// The definition in long double, and what a table may be off by: exp() of a number up to 9.3 with
// three roundings and one of its own, the product with t, sin() or cos(), and what is kept.
template <class T>
int wrong_values(const std::vector<double>& table, std::int64_t steps, std::int64_t dim,
                 long double base = 10000) {
  int wrong = 0;
  const std::int64_t half = dim / 2;
  for (std::int64_t t = 0; t < steps; ++t) {
    for (std::int64_t j = 0; j < dim; ++j) {
      const auto i = static_cast<long double>(j % half);
      const long double angle =
          static_cast<long double>(t) * std::pow(base, -i / static_cast<long double>(half - 1));
      const long double value = j < half ? std::sin(angle) : std::cos(angle);
      const auto expected = static_cast<double>(value);
      const double bound = harness::gamma_of<double>(32) * static_cast<double>(angle) +
                           harness::gamma_of<double>(3) +
                           harness::gamma_of<T>(1) * std::abs(expected);
      wrong += !(std::abs(table[static_cast<std::size_t>(t * dim + j)] - expected) <= bound);
    }
  }
  return wrong;
}

template <class T>
void check_tables() {
  for (const std::int64_t dim : {4, 6, 32, 128}) {
    for (const std::int64_t steps : {1, 20, 257}) {
      const Tensor table = sinusoidal_table(harness::device(), dtype_of<T>(), steps, dim);
      EXPECT_TRUE((table.shape() == Shape{steps, dim}));
      EXPECT_EQ(wrong_values<T>(values_of(table), steps, dim), 0) << steps << " x " << dim;
    }
  }
  // Known-wrong variants: another base, and h in place of h - 1, which is the base 10000^(31 / 32).
  const auto table = values_of(sinusoidal_table(harness::device(), dtype_of<T>(), 20, 64));
  EXPECT_GT(wrong_values<T>(table, 20, 64, 10001), 100);
  EXPECT_GT(wrong_values<T>(table, 20, 64, std::pow(10000.0L, 31.0L / 32)), 100);
}

TEST(SinusoidalTable, AgreesWithTheDefinition) {
  check_tables<float>();
  check_tables<double>();
}

TEST(SinusoidalTable, GivesItsRowsToGather) {
  Tape tape(harness::device(), DType::kF64);
  const Tensor table = sinusoidal_table(harness::device(), DType::kF64, 20, 4);
  const Var rows = gather(table, tape.constant(harness::tensor_of({3, 0}, {2})));
  const double* row = table.data<double>() + 12;
  EXPECT_EQ(values_of(rows.value()),
            (std::vector<double>{row[0], row[1], row[2], row[3], 0, 0, 1, 1}));
  EXPECT_NEAR(row[0], 0.14112, 1e-5);  // sin(3): f is 1, then 1 / 10000
  EXPECT_NEAR(row[1], 3e-4, 1e-10);
}

TEST(SinusoidalTable, RefusesDimensionsThatItHasNot) {
  for (const std::int64_t dim : {7, 5, 2, 0, -2}) {
    EXPECT_EQ(
        error_of([&] { sinusoidal_table(harness::device(), DType::kF32, 20, dim); }),
        fmt::format("sinusoidal_table: expected an even number of dimensions from 4 on, got {}",
                    dim));
  }
}

}  // namespace
}  // namespace sidechannel
