// The example of docs/adding-an-operation.md, as it stands there (see extract.py).

#include "kernels/scale.h"

#include <gtest/gtest.h>

#include "engine/gradcheck.h"
#include "tests/harness/op_check.h"

#if SIDECHANNEL_HAS_CUDA
#include "tests/harness/cuda_check.h"
#endif

namespace sidechannel {

Var scale(const Var& a, const Var& x);

namespace {

using harness::Draw;
using harness::Reference;
using harness::Walled;
using kernels::GradOut;

struct Case {
  explicit Case(std::int64_t size)
      : a(Draw(1).normals<float>(1)),
        x(Draw(2).normals<float>(size)),
        dy(Draw(3).normals<float>(size)),
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
  std::vector<float> a, x, dy;
  Reference expected_y, expected_dx, expected_da;
};

// Products are rounded once; sums are taken in double and rounded once.
template <template <class> class Buffer, class Queue>
void check(Queue& queue, std::int64_t size) {
  SCOPED_TRACE(size);
  const Case c(size);
  const Buffer<float> a(c.a), x(c.x), dy(c.dy);
  Buffer<float> y(size);
  run(queue,
      kernels::ScaleForward<float>{.size = size, .a = a.data(), .x = x.data(), .y = y.data()});
  harness::expect_near<float>("y", y.values(), c.expected_y, 1);
  EXPECT_TRUE(y.walls_stand());
  const kernels::ScaleBackward<float> backward{
      .size = size, .a = a.data(), .x = x.data(), .dy = dy.data()};
  harness::expect_gradient<float, Buffer>("dx", c.expected_dx, 1, [&](GradOut<float> dx) {
    kernels::ScaleBackward<float> call = backward;
    call.dx = dx;
    run(queue, call);
  });
  harness::expect_gradient<float, Buffer>("da", c.expected_da, 2, [&](GradOut<float> da) {
    kernels::ScaleBackward<float> call = backward;
    call.da = da;
    run(queue, call);
  });
}

constexpr std::int64_t kSizes[] = {1, 3, 4, 5, 1023, 1024, 1025, 70000};

TEST(DocumentedOperation, AgreesWithTheDefinition) {
  for (const std::int64_t size : kSizes) check<Walled>(harness::queue(2), size);
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

#if SIDECHANNEL_HAS_CUDA
class CudaDocumentedOperation : public harness::CudaTest {};

TEST_F(CudaDocumentedOperation, AgreesWithTheDefinition) {
  for (const std::int64_t size : kSizes) check<harness::DeviceBuffer>(harness::cuda_queue(), size);
  const harness::DeviceBuffer<float>::Misaligned misaligned;
  for (const std::int64_t size : kSizes) check<harness::DeviceBuffer>(harness::cuda_queue(), size);
}
#endif

}  // namespace
}  // namespace sidechannel
