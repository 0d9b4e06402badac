#include "kernels/windows.h"

#include <gtest/gtest.h>

#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::Reference;
using harness::values_of;
using kernels::GradOut;
using kernels::WindowsDims;

TEST(Windows, OfTwoThatOverlap) {
  Tape tape(harness::device(), DType::kF64);
  const Var x = tape.constant(harness::tensor_of({1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, {2, 5}));
  const Var y = windows(x, 2, 3, 2);
  EXPECT_TRUE((y.shape() == Shape{4, 3}));
  EXPECT_EQ(values_of(y.value()), (std::vector<double>{1, 2, 3, 3, 4, 5, 6, 7, 8, 8, 9, 10}));
  // A stride of 0 repeats the sequence.
  EXPECT_EQ(values_of(windows(x, 2, 5, 0).value()),
            (std::vector<double>{1, 2, 3, 4, 5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 6, 7, 8, 9, 10}));
}

TEST(Windows, Gradients) {
  Draw draw(1);
  for (std::uint64_t i = 0; i < 110; ++i) {
    // Windows with gaps between them, side by side, overlapping, and all the same.
    const WindowsDims dims{draw.integer(1, 3), draw.integer(1, 4), draw.integer(1, 6),
                           draw.integer(0, 8)};
    harness::expect_gradients(
        [&](Tape&, std::span<const Var> in) {
          return windows(in[0], dims.count, dims.length, dims.stride);
        },
        std::vector{draw.tensor({dims.samples, dims.extent()})}, {.seed = i});
  }
}

// The way back by scattering, as the header's sum reads the other way round.
Reference scattered(const WindowsDims& dims, const std::vector<float>& dy) {
  Reference dx(dims.samples * dims.extent());
  for (std::int64_t i = 0; i < dims.size(); ++i) {
    const std::int64_t row = i / dims.length;
    const std::int64_t at = row % dims.count * dims.stride + i % dims.length;
    dx.add(row / dims.count * dims.extent() + at,
           static_cast<double>(dy[static_cast<std::size_t>(i)]));
  }
  return dx;
}

// Overlapping, side by side, with gaps, all the same, one; more than a block's elements.
BACKEND_TEST(Windows, AgreesWithTheDefinition) {
  for (const WindowsDims dims : {WindowsDims{1, 2, 3, 2},
                                 {3, 2, 33, 17},
                                 {3, 2, 33, 0},
                                 {2, 4, 5, 5},
                                 {2, 4, 5, 7},
                                 {5, 1, 1, 0},
                                 {64, 2, 129, 65}}) {
    using Buffer = harness::BufferOn<Backend, float>;
    Backend::for_alignments([&] {
      const auto x = Draw(2).normals<float>(dims.samples * dims.extent());
      const auto dy = Draw(3).normals<float>(dims.size());
      const Buffer in(x), cotangent(dy);
      Backend::expect_same_bits("windows", [&](auto& queue) {
        Buffer y(dims.size());
        run(queue, kernels::WindowsForward<float>{.dims = dims, .x = in.data(), .y = y.data()});
        EXPECT_TRUE(y.walls_stand());
        const std::vector<float> values = harness::values_of_all({&y});
        for (std::int64_t i = 0; i < dims.size(); ++i) {
          const std::int64_t row = i / dims.length;
          const std::int64_t from =
              row / dims.count * dims.extent() + row % dims.count * dims.stride + i % dims.length;
          EXPECT_EQ(values[static_cast<std::size_t>(i)], x[static_cast<std::size_t>(from)]);
        }
        kernels::WindowsBackward<float> call{.dims = dims, .dy = cotangent.data()};
        run(queue, call);  // nobody asked
        harness::expect_gradient<Buffer>("dx", scattered(dims, dy), dims.count,
                                         [&](GradOut<float> dx) {
                                           call.dx = dx;
                                           run(queue, call);
                                         });
        Buffer dx(dims.samples * dims.extent());
        call.dx = {dx.data()};
        run(queue, call);
        return harness::values_of_all({&y, &dx});
      });
    });
  }
}

TEST(Windows, RefusesWhatDoesNotFit) {
  Tape tape(harness::device(), DType::kF64);
  const Var x = tape.make({2, 5});
  EXPECT_EQ(error_of([&] { windows(x, 2, 3, 3); }),
            "windows: 2 windows of length 3 by a stride of 3 span 6 positions, x has 5");
  EXPECT_EQ(error_of([&] { windows(x, 0, 3, 1); }),
            "windows: 0 windows of length 3 by a stride of 1");
  EXPECT_EQ(error_of([&] {
              windows(tape.make({2, 5, 1}), 2, 3, 2);
            }),
            "windows: expected x of shape [N, L], got [2, 5, 1]");
}

}  // namespace
}  // namespace sidechannel
