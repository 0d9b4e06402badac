#include "kernels/mse.h"

#include <gtest/gtest.h>

#include "engine/gradcheck.h"
#include "tests/harness/op_check.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::Reference;
using harness::Walled;
using kernels::CpuQueue;
using kernels::GradOut;
using kernels::MseDims;

template <class T>
void check_kernels(const MseDims& dims) {
  SCOPED_TRACE(fmt::format("size={} target_size={}", dims.size, dims.target_size));
  Draw draw(static_cast<std::uint64_t>(dims.size));
  const auto y = draw.normals<T>(dims.size);
  const auto target = draw.normals<T>(dims.target_size);
  const std::vector<T> dloss = {T(-0.7)};
  Reference loss(1), dy(dims.size);
  for (std::int64_t i = 0; i < dims.size; ++i) {
    const double error = double(y[static_cast<std::size_t>(i)]) -
                         double(target[static_cast<std::size_t>(i % dims.target_size)]);
    loss.add(0, error * error / static_cast<double>(dims.size));
    dy.add(i, double(dloss[0]) * 2 / static_cast<double>(dims.size) * error);
  }
  CpuQueue& queue = harness::queue(2);
  const Walled<T> prediction(y), goal(target), scale(dloss);
  Walled<T> out(1);
  run(queue, kernels::MseForward<T>{
                 .dims = dims, .y = prediction.data(), .target = goal.data(), .loss = out.data()});
  // In double whatever T is, rounded to T in the end; for T = double the sum's own roundings count.
  harness::expect_near<T>("loss", out.values(), loss, sizeof(T) == 4 ? 2 : dims.size + 4);
  EXPECT_TRUE(out.walls_stand());
  // y - target, the scale's product and quotient with a rounded size, the product with both.
  harness::expect_gradient<T>("dy", dy, 5, [&](GradOut<T> gradient) {
    run(queue, kernels::MseBackward<T>{.dims = dims,
                                       .y = prediction.data(),
                                       .target = goal.data(),
                                       .dloss = scale.data(),
                                       .dy = gradient});
  });
  run(queue,
      kernels::MseBackward<T>{
          .dims = dims, .y = prediction.data(), .target = goal.data(), .dloss = scale.data()});
}

TEST(Mse, KernelsAgreeWithTheDefinition) {
  for (const MseDims& dims :
       {MseDims{1, 1}, MseDims{7, 7}, MseDims{12, 3}, MseDims{35, 5}, MseDims{4096, 64},
        MseDims{4097, 17}, MseDims{20011, 20011}, MseDims{30000, 600}, MseDims{999, 1}}) {
    check_kernels<float>(dims);
    check_kernels<double>(dims);
  }
}

TEST(Mse, SameBitsWithAnyNumberOfThreads) {
  const MseDims dims{50000, 500};
  const auto y = Draw(1).normals<float>(dims.size);
  const auto target = Draw(2).normals<float>(dims.target_size);
  harness::expect_same_bits("mse", [&](CpuQueue& queue) {
    std::vector<float> all(y.size() + 1);
    run(queue, kernels::MseForward<float>{
                   .dims = dims, .y = y.data(), .target = target.data(), .loss = all.data()});
    run(queue, kernels::MseBackward<float>{.dims = dims,
                                           .y = y.data(),
                                           .target = target.data(),
                                           .dloss = all.data(),
                                           .dy = {all.data() + 1}});
    return all;
  });
}

TEST(Mse, Gradients) {
  Draw draw(3);
  for (std::uint64_t i = 0; i < 110; ++i) {
    const std::int64_t samples = draw.integer(1, 5);
    const std::int64_t length = draw.integer(1, 30);
    const bool shared = draw.integer(0, 1) == 1;
    const Tensor target = draw.tensor(shared ? Shape{length} : Shape{samples, length, 1});
    GradientCheckOptions options;
    options.seed = i;
    const GradientCheck check =
        check_gradients([&](Tape&, std::span<const Var> in) { return mse(in[0], target); },
                        std::vector{draw.tensor({samples, length, 1})}, options);
    EXPECT_TRUE(check.passed()) << check.message();
  }
}

TEST(Mse, RefusesWrongShapes) {
  Tape tape(harness::device(), DType::kF64);
  const Var y = tape.make({4, 9, 1});
  const auto loss = [&](const Tensor& target) { return error_of([&] { mse(y, target); }); };
  const auto zeros = [](Shape shape, DType dtype = DType::kF64) {
    return Tensor::zeros(harness::device(), dtype, shape);
  };
  EXPECT_EQ(loss(zeros({4, 9, 1})), "no error");
  EXPECT_EQ(loss(zeros({9})), "no error");
  EXPECT_EQ(loss(zeros({10})), "mse: a target of [10] does not fit a prediction of [4, 9, 1]");
  EXPECT_EQ(loss(zeros({0})), "mse: a target of [0] does not fit a prediction of [4, 9, 1]");
  EXPECT_EQ(loss(zeros({9}, DType::kF32)), "mse: expected a target of type f64");
  EXPECT_EQ(loss(Tensor()), "mse: expected a target of type f64");
}

}  // namespace
}  // namespace sidechannel
