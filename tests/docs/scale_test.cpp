// The example of docs/adding-an-operation.md, as it stands there (see extract.py).

#include "kernels/scale.h"

#include <gtest/gtest.h>

#include "engine/gradcheck.h"
#include "tests/harness/backends.h"

namespace sidechannel {

Var scale(const Var& a, const Var& x);

namespace {

using harness::Draw;
using harness::Reference;
using kernels::GradOut;

template <class T>
struct Case {
  explicit Case(std::int64_t size)
      : a(Draw(1).normals<T>(1)),
        x(Draw(2).normals<T>(size)),
        dy(Draw(3).normals<T>(size)),
        expected_y(size),
        expected_dx(size),
        expected_da(1) {
    for (std::int64_t i = 0; i < size; ++i) {
      const auto at = static_cast<std::size_t>(i);
      expected_y.add(i, double(a[0]) * double(x[at]));
      expected_dx.add(i, double(a[0]) * double(dy[at]));
      expected_da.add(0, double(dy[at]) * double(x[at]));
    }
  }
  std::vector<T> a, x, dy;
  Reference expected_y, expected_dx, expected_da;
};

// Products are rounded once; sums are taken in double and rounded once.
template <template <class> class Buffer, class T>
void check(auto& queue, std::int64_t size) {
  SCOPED_TRACE(size);
  const Case<T> c(size);
  const Buffer<T> a(c.a), x(c.x), dy(c.dy);
  Buffer<T> y(size);
  run(queue, kernels::ScaleForward<T>{.size = size, .a = a.data(), .x = x.data(), .y = y.data()});
  harness::expect_near<T>("y", y.values(), c.expected_y, 1);
  EXPECT_TRUE(y.walls_stand());
  const kernels::ScaleBackward<T> backward{
      .size = size, .a = a.data(), .x = x.data(), .dy = dy.data()};
  harness::expect_gradient<Buffer<T>>("dx", c.expected_dx, 1, [&](GradOut<T> dx) {
    kernels::ScaleBackward<T> call = backward;
    call.dx = dx;
    run(queue, call);
  });
  harness::expect_gradient<Buffer<T>>("da", c.expected_da, 2, [&](GradOut<T> da) {
    kernels::ScaleBackward<T> call = backward;
    call.da = da;
    run(queue, call);
  });
}

constexpr std::int64_t kSizes[] = {1, 3, 4, 5, 1023, 1024, 1025, 70000};

BACKEND_TEST(DocumentedOperation, AgreesWithTheDefinition) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const std::int64_t size : kSizes) {
      Backend::for_alignments([&] { check<Backend::template Buffer, T>(queue, size); });
    }
  });
}

TEST(DocumentedOperation, Gradients) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Draw draw(seed);
    const auto size = static_cast<std::int64_t>(1 + seed * 3);
    const GradientCheck result =
        check_gradients([](Tape&, std::span<const Var> in) { return scale(in[0], in[1]); },
                        std::vector{draw.tensor({1}), draw.tensor({size})});
    EXPECT_TRUE(result.passed()) << result.message();
  }
}

}  // namespace
}  // namespace sidechannel
