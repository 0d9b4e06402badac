#include "kernels/relu.h"

#include <gtest/gtest.h>

#include "engine/gradcheck.h"
#include "tests/harness/op_check.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::Reference;
using harness::Walled;
using kernels::CpuQueue;
using kernels::GradOut;

// Normal, but not within 0.05 of the kink.
std::vector<double> clear_of_zero(Draw& draw, std::int64_t size) {
  auto values = draw.normals<double>(size);
  for (double& value : values) value += value < 0 ? -0.05 : 0.05;
  return values;
}

template <class T>
void check_kernels(std::int64_t size) {
  SCOPED_TRACE(size);
  Draw draw(static_cast<std::uint64_t>(size));
  auto x = draw.normals<T>(size);
  x[0] = T(0);  // the gradient at the kink is 0, as in PyTorch
  const auto dy = draw.normals<T>(size);
  Reference forward(size), backward(size);
  for (std::int64_t i = 0; i < size; ++i) {
    const auto at = static_cast<std::size_t>(i);
    forward.add(i, x[at] > 0 ? x[at] : 0);
    backward.add(i, x[at] > 0 ? dy[at] : 0);
  }
  CpuQueue& queue = harness::queue(2);
  const Walled<T> in(x), gradient(dy);
  Walled<T> y(size);
  run(queue, kernels::ReluForward<T>{.size = size, .x = in.data(), .y = y.data()});
  harness::expect_near<T>("y", y.values(), forward, 0);
  EXPECT_TRUE(y.walls_stand());
  harness::expect_gradient<T>("dx", backward, 0, [&](GradOut<T> dx) {
    run(queue,
        kernels::ReluBackward<T>{.size = size, .y = y.data(), .dy = gradient.data(), .dx = dx});
  });
  run(queue, kernels::ReluBackward<T>{.size = size, .y = y.data(), .dy = gradient.data()});
}

TEST(Relu, KernelsAgreeWithTheDefinition) {
  for (std::int64_t size : {1, 2, 7, 31, 33, 1000, 4095, 8193, 20011}) {
    check_kernels<float>(size);
    check_kernels<double>(size);
  }
}

TEST(Relu, SameBitsWithAnyNumberOfThreads) {
  const auto x = Draw(1).normals<float>(30011);
  const auto dy = Draw(2).normals<float>(30011);
  harness::expect_same_bits("relu", [&](CpuQueue& queue) {
    std::vector<float> all(2 * x.size());
    const auto size = static_cast<std::int64_t>(x.size());
    run(queue, kernels::ReluForward<float>{.size = size, .x = x.data(), .y = all.data()});
    run(queue, kernels::ReluBackward<float>{
                   .size = size, .y = all.data(), .dy = dy.data(), .dx = {all.data() + size}});
    return all;
  });
}

TEST(Relu, LetsNaNThrough) {
  const std::vector<float> x = {1, std::numeric_limits<float>::quiet_NaN(), -1};
  std::vector<float> y(3);
  run(harness::queue(), kernels::ReluForward<float>{.size = 3, .x = x.data(), .y = y.data()});
  EXPECT_EQ(y[0], 1);
  EXPECT_TRUE(std::isnan(y[1]));
  EXPECT_EQ(y[2], 0);
}

TEST(Relu, Gradients) {
  Draw draw(3);
  for (std::uint64_t i = 0; i < 120; ++i) {
    const Shape shape = i % 3 == 0 ? Shape{draw.integer(1, 40)}
                        : i % 3 == 1
                            ? Shape{draw.integer(1, 9), draw.integer(1, 17)}
                            : Shape{draw.integer(1, 3), draw.integer(1, 11), draw.integer(1, 7)};
    GradientCheckOptions options;
    options.seed = i;
    const GradientCheck check = check_gradients(
        [](Tape&, std::span<const Var> in) { return relu(in[0]); },
        std::vector{harness::tensor_of(clear_of_zero(draw, shape.size()), shape)}, options);
    EXPECT_TRUE(check.passed()) << check.message();
  }
}

}  // namespace
}  // namespace sidechannel
