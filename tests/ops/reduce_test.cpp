#include "kernels/reduce.h"

#include <gtest/gtest.h>

#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::BufferOn;
using harness::Draw;

// Nothing; one block's range and one more; a model's parameters.
BACKEND_TEST(SumOfSquares, AgreesWithTheDefinition) {
  for (const std::int64_t size : {0, 1, 9, 31, 4096, 4097, 32768, 32769, 100003, 200001}) {
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

}  // namespace
}  // namespace sidechannel
