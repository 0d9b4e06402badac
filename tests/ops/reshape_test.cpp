#include <gtest/gtest.h>

#include "kernels/copy.h"
#include "kernels/fill.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::Reference;
using kernels::GradOut;

TEST(Reshape, IsAViewOfTheSameElements) {
  Tape tape(harness::device(), DType::kF64);
  const Var x = tape.constant(Draw(1).tensor({2, 3, 4}));
  const Var y = reshape(x, {6, 4});
  EXPECT_TRUE((y.shape() == Shape{6, 4}));
  EXPECT_EQ(y.data<double>(), x.data<double>());
}

TEST(Reshape, Gradients) {
  Draw draw(2);
  for (std::uint64_t i = 0; i < 110; ++i) {
    const std::int64_t a = draw.integer(1, 4), b = draw.integer(1, 7), c = draw.integer(1, 5);
    const Shape to = i % 3 == 0   ? Shape{a * b, c}
                     : i % 3 == 1 ? Shape{a * b * c}
                                  : Shape{c, 1, b, a};
    harness::expect_gradients([&](Tape&, std::span<const Var> in) { return reshape(in[0], to); },
                              std::vector{draw.tensor({a, b, c})}, {.seed = i});
  }
}

TEST(Reshape, RefusesAnotherSize) {
  Tape tape(harness::device(), DType::kF64);
  const Var x = tape.make({2, 3});
  EXPECT_EQ(error_of([&] { reshape(x, {7}); }),
            "reshape: [7] does not hold the elements of [2, 3]");
  EXPECT_EQ(error_of([&] { reshape(x, {}); }), "reshape: [] does not hold the elements of [2, 3]");
}

// The kernel of its backward rule.
BACKEND_TEST(Copy, OverwritesOrAdds) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const std::int64_t size : {1, 3, 4, 5, 64, 1023, 1024, 1025, 12345}) {
      Backend::for_alignments([&] {
        const auto x = Draw(3).normals<T>(size);
        Reference expected(size);
        for (std::int64_t i = 0; i < size; ++i) expected.add(i, x[static_cast<std::size_t>(i)]);
        using Buffer = harness::BufferOn<Backend, T>;
        const Buffer in(x);
        harness::expect_gradient<Buffer>("y", expected, 0,
                                         [&](GradOut<T> y) { copy(queue, size, in.data(), y); });
        copy(queue, size, in.data(), GradOut<T>{});  // nobody asked
      });
    }
  });
}

template <class T, template <class> class Buffer>
void check_fill(auto& queue) {
  for (const std::int64_t size : {1, 255, 256, 257, 3000}) {
    Buffer<T> x(size);
    kernels::fill(queue, size, T(-1.5), x.data());
    EXPECT_TRUE(x.walls_stand());
    for (const T value : x.values()) ASSERT_EQ(value, T(-1.5));
  }
  kernels::fill(queue, 0, T(1), static_cast<T*>(nullptr));
}

BACKEND_TEST(Fill, FillsAll) {
  check_fill<float, Backend::template Buffer>(Backend::queue());
  check_fill<double, Backend::template Buffer>(Backend::queue());
}

}  // namespace
}  // namespace sidechannel
