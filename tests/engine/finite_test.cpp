#include "engine/finite.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

// Neighbours of one size are looked at together, whatever the sizes of the others.
BACKEND_TEST(FiniteCheck, LooksAtTensorsOfAllSizes) {
  Backend::for_devices([](const Device& device, DType dtype) {
    const std::vector<std::int64_t> sizes = {6, 6, 3, 6, 1};
    for (std::size_t bad = 0; bad <= sizes.size(); ++bad) {
      Tape tape(device, dtype);
      std::vector<Var> all;
      for (std::size_t i = 0; i < sizes.size(); ++i) {
        std::vector<double> values(static_cast<std::size_t>(sizes[i]), 1);
        if (i == bad) values.back() = NAN;
        all.push_back(
            tape.constant(Tensor::from(device, harness::array_of(values, dtype, {sizes[i]}))));
      }
      FiniteCheck check(device, std::ssize(sizes));
      check.look(0, all);
      EXPECT_EQ(check.finite(), bad == sizes.size()) << bad;
    }
  });
}

}  // namespace
}  // namespace sidechannel
