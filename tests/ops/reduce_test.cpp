#include "kernels/reduce.h"

#include <gtest/gtest.h>

#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::BufferOn;
using harness::Draw;

// Nothing; one block's range and one more; a model's parameters.
BACKEND_TEST(SumOfSquares, AgreesWithTheDefinition) {
  for (const std::int64_t size : {0, 1, 9, 31, 4096, 4097, 8192, 8193, 100003, 200001}) {
    SCOPED_TRACE(size);
    Backend::for_types([&]<class T>(auto&) {
      const auto x = Draw(2).normals<T>(size);
      double expected = 0;
      for (const T value : x) expected += double(value) * double(value);
      const BufferOn<Backend, T> in(x);
      Backend::expect_same_bits("sum of squares", [&](auto& queue) {
        BufferOn<Backend, double> result(1);
        run(queue, kernels::SumOfSquares<T>{.size = size, .x = in.data(), .result = result.data()});
        EXPECT_TRUE(result.walls_stand());
        EXPECT_NEAR(result.value(), expected, harness::gamma_of<double>(size + 1) * expected);
        return harness::values_of_all({&result});
      });
    });
  }
}

BACKEND_TEST(SumOfSquares, IsNotFiniteWhereAnElementIsNot) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const T bad : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()}) {
      std::vector<T> x(40000, 1);
      x[39999] = bad;
      const BufferOn<Backend, T> in(x);
      BufferOn<Backend, double> result(std::vector<double>{0});
      run(queue, kernels::SumOfSquares<T>{.size = 40000, .x = in.data(), .result = result.data()});
      EXPECT_FALSE(std::isfinite(result.value()));
    }
  });
}

// Of several at once: one range of a block, several, and more tensors than a launch takes. One that
// is not finite is that alone.
BACKEND_TEST(SumOfSquares, OfSeveral) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const auto& [count, size] :
         {std::pair<std::int64_t, std::int64_t>{2, 9}, {3, 40000}, {65, 7}, {2, 0}}) {
      SCOPED_TRACE(fmt::format("{} x {}", count, size));
      std::vector<T> values = Draw(3).normals<T>(count * size);
      const bool spoilt = count == 3;
      if (spoilt) values[static_cast<std::size_t>(2 * size - 1)] = T(INFINITY);
      const BufferOn<Backend, T> x(values);
      BufferOn<Backend, double> results(count);
      std::vector<kernels::SumOfSquares<T>> calls;
      for (std::int64_t i = 0; i < count; ++i) {
        calls.push_back({.size = size, .x = x.data() + i * size, .result = results.data() + i});
      }
      run(queue, kernels::View<kernels::SumOfSquares<T>>(calls));
      EXPECT_TRUE(results.walls_stand());
      for (std::int64_t i = 0; i < count; ++i) {
        const double result = results.values()[static_cast<std::size_t>(i)];
        if (spoilt && i == 1) {
          EXPECT_FALSE(std::isfinite(result));
          continue;
        }
        double expected = 0;
        for (std::int64_t j = i * size; j < (i + 1) * size; ++j) {
          expected += double(values[static_cast<std::size_t>(j)]) *
                      double(values[static_cast<std::size_t>(j)]);
        }
        EXPECT_NEAR(result, expected, harness::gamma_of<double>(size + 1) * expected) << i;
      }
    }
  });
}

}  // namespace
}  // namespace sidechannel
