#include "kernels/relu.h"

#include <gtest/gtest.h>

#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::Reference;
using kernels::GradOut;

// Normal, but not within 0.05 of the kink.
std::vector<double> clear_of_zero(Draw& draw, std::int64_t size) {
  auto values = draw.normals<double>(size);
  for (double& value : values) value += value < 0 ? -0.05 : 0.05;
  return values;
}

// One element; vectors, a thread's four and a block's 1024, less and more; several blocks.
BACKEND_TEST(Relu, AgreesWithTheDefinition) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const std::int64_t size : {1, 2, 3, 4, 5, 7, 31, 33, 1023, 1024, 1025, 8193, 20011}) {
      Backend::for_alignments([&] {
        SCOPED_TRACE(size);
        Draw draw(static_cast<std::uint64_t>(size));
        auto x = draw.normals<T>(size);
        x[0] = T(0);  // the gradient at the kink is 0, as in PyTorch
        x[x.size() / 2] = -T(0);
        if (size > 1) x[x.size() - 1] = -std::numeric_limits<T>::infinity();
        const auto dy = draw.normals<T>(size);
        Reference forward(size), backward(size);
        for (std::int64_t i = 0; i < size; ++i) {
          const auto at = static_cast<std::size_t>(i);
          forward.add(i, x[at] > 0 ? x[at] : 0);
          backward.add(i, x[at] > 0 ? dy[at] : 0);
        }
        using Buffer = harness::BufferOn<Backend, T>;
        const Buffer in(x), gradient(dy);
        Buffer y(size);
        run(queue, kernels::ReluForward<T>{.size = size, .x = in.data(), .y = y.data()});
        harness::expect_near<T>("y", y.values(), forward, 0);
        EXPECT_TRUE(y.walls_stand());
        kernels::ReluBackward<T> call{.size = size, .y = y.data(), .dy = gradient.data()};
        run(queue, call);  // nobody asked
        harness::expect_gradient<Buffer>("dx", backward, 0, [&](GradOut<T> dx) {
          call.dx = dx;
          run(queue, call);
        });
      });
    }
  });
}

BACKEND_TEST(Relu, SameBitsEveryTime) {
  using Buffer = harness::BufferOn<Backend, float>;
  const Buffer x(Draw(1).normals<float>(30011)), dy(Draw(2).normals<float>(30011));
  Backend::expect_same_bits("relu", [&](auto& queue) {
    Buffer y(30011), dx(30011);
    run(queue, kernels::ReluForward<float>{.size = 30011, .x = x.data(), .y = y.data()});
    run(queue, kernels::ReluBackward<float>{
                   .size = 30011, .y = y.data(), .dy = dy.data(), .dx = {dx.data()}});
    return harness::values_of_all({&y, &dx});
  });
}

BACKEND_TEST(Relu, LetsNaNThrough) {
  Backend::for_types([]<class T>(auto& queue) {
    using Buffer = harness::BufferOn<Backend, T>;
    const Buffer x(std::vector<T>{1, std::numeric_limits<T>::quiet_NaN(), -1});
    Buffer y(3);
    run(queue, kernels::ReluForward<T>{.size = 3, .x = x.data(), .y = y.data()});
    const auto values = y.values();
    EXPECT_EQ(values[0], 1);
    EXPECT_TRUE(std::isnan(values[1]));
    EXPECT_EQ(values[2], 0);
    // As PyTorch has it for a mask by y > 0.
    const Buffer dy(std::vector<T>{2, 2, 2});
    Buffer dx(3);
    run(queue,
        kernels::ReluBackward<T>{.size = 3, .y = y.data(), .dy = dy.data(), .dx = {dx.data()}});
    EXPECT_EQ(dx.values()[0], 2);
    EXPECT_EQ(dx.values()[1], 0);
    EXPECT_EQ(dx.values()[2], 0);
  });
}

TEST(Relu, Gradients) {
  Draw draw(3);
  for (std::uint64_t i = 0; i < 120; ++i) {
    const Shape shape = i % 3 == 0 ? Shape{draw.integer(1, 40)}
                        : i % 3 == 1
                            ? Shape{draw.integer(1, 9), draw.integer(1, 17)}
                            : Shape{draw.integer(1, 3), draw.integer(1, 11), draw.integer(1, 7)};
    harness::expect_gradients(
        [](Tape&, std::span<const Var> in) { return relu(in[0]); },
        std::vector{harness::tensor_of(clear_of_zero(draw, shape.size()), shape)}, {.seed = i});
  }
}

}  // namespace
}  // namespace sidechannel
