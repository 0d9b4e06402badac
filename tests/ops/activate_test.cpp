#include "kernels/activate.h"

#include <gtest/gtest.h>

#include "tests/harness/activation.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::activation_at;
using harness::Draw;
using harness::Reference;
using kernels::Activation;
using kernels::GradOut;
using enum kernels::Activation;

constexpr Activation kAll[] = {kNone, kRelu, kMish};

// What ends an activation's ranges: kinks, where powers of e end, and where they would overflow.
// (Between -87 and -92 Mish is off by up to 92 of the least normal number.)
const std::vector<double> kPlaces = {0,     -0.0, 1e-30, -1e-30, 20,   20.5,  -20,
                                     -86.9, -95,  -104,  88,     -760, -1e30, 1e30};

// One element; vectors, a thread's four and a block's 1024, less and more; several blocks.
BACKEND_TEST(Activate, AgreesWithTheDefinition) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const Activation activation : kAll) {
      for (const std::int64_t size : {1, 2, 3, 4, 5, 7, 31, 33, 1023, 1024, 1025, 8193, 20011}) {
        Backend::for_alignments([&] {
          SCOPED_TRACE(fmt::format("activation {}, size {}", static_cast<int>(activation), size));
          Draw draw(static_cast<std::uint64_t>(size));
          auto x = draw.normals<T>(size, 0, 3);
          for (std::size_t i = 0; i < std::min(x.size(), kPlaces.size()); ++i) {
            x[x.size() - 1 - i] = static_cast<T>(kPlaces[i]);
          }
          const auto dy = draw.normals<T>(size);
          // Of -infinity comes 0; at the kink the gradient is 0, as in PyTorch.
          if (activation == kRelu && size > 20) x[0] = -std::numeric_limits<T>::infinity();
          Reference forward(size), backward(size);
          const std::int64_t roundings = activation_at(activation, 0).roundings;
          for (std::int64_t i = 0; i < size; ++i) {
            const auto at = static_cast<std::size_t>(i);
            const harness::ActivationAt expected = activation_at(activation, x[at]);
            forward.add(i, expected.value);
            backward.add(i, expected.slope * dy[at], expected.through(dy[at]));
          }
          using Buffer = harness::BufferOn<Backend, T>;
          const Buffer in(x), gradient(dy);
          Buffer y(size);
          run(queue, kernels::ActivateForward<T>{size, activation, in.data(), y.data()});
          harness::expect_near<T>("y", y.values(), forward, roundings);
          EXPECT_TRUE(y.walls_stand());
          const T* kept = kernels::output_tells_gradient(activation) ? y.data() : in.data();
          kernels::ActivateBackward<T> call{size, activation, kept, gradient.data()};
          run(queue, call);  // nobody asked
          harness::expect_gradient<Buffer>("dx", backward, roundings, [&](GradOut<T> dx) {
            call.dx = dx;
            run(queue, call);
          });
        });
      }
    }
  });
}

BACKEND_TEST(Activate, SameBitsEveryTime) {
  using Buffer = harness::BufferOn<Backend, float>;
  const Buffer x(Draw(1).normals<float>(30011)), dy(Draw(2).normals<float>(30011));
  for (const Activation activation : kAll) {
    Backend::expect_same_bits("activate", [&](auto& queue) {
      Buffer y(30011), dx(30011);
      run(queue, kernels::ActivateForward<float>{30011, activation, x.data(), y.data()});
      run(queue,
          kernels::ActivateBackward<float>{30011, activation, x.data(), dy.data(), {dx.data()}});
      return harness::values_of_all({&y, &dx});
    });
  }
}

BACKEND_TEST(Activate, LetsNaNThrough) {
  Backend::for_types([]<class T>(auto& queue) {
    using Buffer = harness::BufferOn<Backend, T>;
    const Buffer x(std::vector<T>{1, std::numeric_limits<T>::quiet_NaN(), -30,
                                  std::numeric_limits<T>::infinity()});
    const Buffer dy(std::vector<T>{2, 2, 2, 2});
    for (const Activation activation : kAll) {
      Buffer y(4), dx(4);
      run(queue, kernels::ActivateForward<T>{4, activation, x.data(), y.data()});
      EXPECT_TRUE(std::isnan(y.values()[1]));
      EXPECT_TRUE(std::isinf(y.values()[3]));
      run(queue, kernels::ActivateBackward<T>{4, activation, x.data(), dy.data(), {dx.data()}});
      for (const std::size_t i : {0, 2, 3}) EXPECT_TRUE(std::isfinite(dx.values()[i]));
      // A ReLU's mask is by y > 0, as PyTorch has it.
      EXPECT_EQ(std::isnan(dx.values()[1]), activation == kMish);
    }
  });
}

TEST(Activate, Gradients) {
  Draw draw(3);
  for (std::uint64_t i = 0; i < 150; ++i) {
    const Shape shape = i % 3 == 0 ? Shape{draw.integer(1, 40)}
                        : i % 3 == 1
                            ? Shape{draw.integer(1, 9), draw.integer(1, 17)}
                            : Shape{draw.integer(1, 3), draw.integer(1, 11), draw.integer(1, 7)};
    auto x = draw.normals<double>(shape.size());
    for (double& value : x) value += value < 0 ? -0.05 : 0.05;  // clear of the kink
    harness::expect_gradients(
        [&](Tape&, std::span<const Var> in) { return activate(in[0], kAll[i % 3]); },
        std::vector{harness::tensor_of(x, shape)}, {.seed = i});
  }
}

// A dense layer keeps y alone; with an activation that needs more it is two operations.
TEST(Activate, DenseLayersTakeEveryOne) {
  Draw draw(4);
  for (const Activation activation : kAll) {
    const std::vector<Tensor> inputs = {draw.tensor({5, 3}), draw.tensor({4, 3}), draw.tensor({4})};
    harness::expect_gradients(
        [&](Tape&, std::span<const Var> in) { return linear(in[0], in[1], in[2], activation); },
        inputs);
    Tape tape(harness::device(), DType::kF64);
    const Var x = tape.constant(inputs[0]), w = tape.constant(inputs[1]),
              b = tape.constant(inputs[2]);
    EXPECT_EQ(harness::values_of(linear(x, w, b, activation).value()),
              harness::values_of(activate(linear(x, w, b), activation).value()));
  }
}

}  // namespace
}  // namespace sidechannel
