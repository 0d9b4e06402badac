#include "kernels/mse.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::Reference;
using kernels::GradOut;
using kernels::MseDims;

template <class Backend, class T>
void check_kernels(auto& queue, MseDims dims, std::int64_t of_weights) {
  SCOPED_TRACE(fmt::format("size={} target_size={} sets={} weights={}", dims.size, dims.target_size,
                           dims.sets, of_weights));
  const bool weighted = of_weights > 0;
  if (weighted) dims.weights_size = of_weights;
  Draw draw(static_cast<std::uint64_t>(dims.size));
  const auto y = draw.normals<T>(dims.sets * dims.size);
  const auto target = draw.normals<T>(dims.target_size);
  const auto dloss = draw.normals<T>(dims.sets);
  const auto weights = draw.normals<T>(dims.weights_size);
  Reference loss(dims.sets), dy(dims.sets * dims.size);
  for (std::int64_t set = 0; set < dims.sets; ++set) {
    for (std::int64_t i = 0; i < dims.size; ++i) {
      const std::int64_t at = set * dims.size + i;
      const double error = double(y[static_cast<std::size_t>(at)]) -
                           double(target[static_cast<std::size_t>(i % dims.target_size)]);
      const double weight =
          weighted ? double(weights[static_cast<std::size_t>(i % dims.weights_size)]) : 1;
      loss.add(set, weight * error * error / static_cast<double>(dims.size));
      dy.add(at, double(dloss[static_cast<std::size_t>(set)]) * 2 / static_cast<double>(dims.size) *
                     error * weight);
    }
  }
  using Buffer = harness::BufferOn<Backend, T>;
  const Buffer prediction(y), goal(target), scale(dloss), factors(weights);
  const T* const with = weighted ? factors.data() : nullptr;
  Buffer out(dims.sets);
  run(queue, kernels::MseForward<T>{.dims = dims,
                                    .y = prediction.data(),
                                    .target = goal.data(),
                                    .weights = with,
                                    .loss = out.data()});
  // In double whatever T is, rounded to T in the end; for T = double the sum's own roundings count.
  harness::expect_near<T>("loss", out.values(), loss,
                          sizeof(T) == 4 ? 2 : dims.size + 4 + weighted);
  EXPECT_TRUE(out.walls_stand());
  kernels::MseBackward<T> call{.dims = dims,
                               .y = prediction.data(),
                               .target = goal.data(),
                               .weights = with,
                               .dloss = scale.data()};
  run(queue, call);  // nobody asked
  // y - target, the scale's product and quotient with a rounded size, the product with both; the
  // weight's.
  harness::expect_gradient<Buffer>("dy", dy, 5 + weighted, [&](GradOut<T> to) {
    call.dy = to;
    run(queue, call);
  });
}

// Sizes around a thread's four and the range of a block, where a second stage begins; targets that
// are shorter than a pack, and of the whole size; several sets, in one stage and in two.
const std::vector<MseDims> kDims = {{1, 1},       {5, 1},       {6, 3},          {7, 7},
                                    {12, 3},      {35, 5},      {999, 1},        {1024, 64},
                                    {4097, 17},   {5000, 1000}, {20011, 20011},  {8192, 64},
                                    {30000, 600}, {8193, 8193}, {200000, 50000}, {600, 60, 3},
                                    {35, 5, 31},  {8193, 3, 4}, {7, 7, 0}};

// No weights, one, those of a sequence that may be longer or shorter than the target's, one for
// each element.
std::vector<std::int64_t> weights_of(const MseDims& dims) {
  return {0, 1, std::gcd(dims.size, std::int64_t{60}), dims.size};
}

BACKEND_TEST(Mse, AgreesWithTheDefinition) {
  Backend::for_types([]<class T>(auto& queue) {
    for (const MseDims& dims : kDims) {
      for (const std::int64_t weights : weights_of(dims)) {
        Backend::for_alignments([&] { check_kernels<Backend, T>(queue, dims, weights); });
      }
    }
  });
}

// Weights of 1 are none, to the bit; another one counts for its elements alone.
BACKEND_TEST(Mse, WeightsWeigh) {
  using Buffer = harness::BufferOn<Backend, float>;
  const Buffer y(Draw(1).normals<float>(9000)), target(Draw(2).normals<float>(30)),
      one(std::vector{1.5f});
  const auto results = [&](const std::vector<float>& weights, std::int64_t size) {
    const Buffer with(weights.empty() ? std::vector<float>{0} : weights);
    const float* const data = weights.empty() ? nullptr : with.data();
    const MseDims dims{9000, 30, 1, size};
    Buffer loss(1), dy(9000);
    run(Backend::queue(), kernels::MseForward<float>{.dims = dims,
                                                     .y = y.data(),
                                                     .target = target.data(),
                                                     .weights = data,
                                                     .loss = loss.data()});
    run(Backend::queue(), kernels::MseBackward<float>{.dims = dims,
                                                      .y = y.data(),
                                                      .target = target.data(),
                                                      .weights = data,
                                                      .dloss = one.data(),
                                                      .dy = {dy.data()}});
    return harness::values_of_all({&loss, &dy});
  };
  std::vector<float> weights(60, 1);
  const std::vector<float> plain = results({}, 1);
  harness::expect_equal_bits("weights of 1", results(weights, 60), plain);
  weights[7] = 2;
  const std::vector<float> weighted = results(weights, 60);
  EXPECT_GT(weighted[0], plain[0]);
  for (std::size_t i = 1; i < weighted.size(); ++i) {
    ASSERT_EQ(weighted[i], plain[i] * ((i - 1) % 60 == 7 ? 2 : 1)) << i;
  }
}

template <class Backend>
void check_same_bits(MseDims dims) {
  dims.weights_size = weights_of(dims)[2];
  using Buffer = harness::BufferOn<Backend, float>;
  const Buffer y(Draw(1).normals<float>(dims.sets * dims.size)),
      target(Draw(2).normals<float>(dims.target_size)),
      weights(Draw(3).normals<float>(dims.weights_size));
  Backend::expect_same_bits("mse", [&](auto& queue) {
    Buffer loss(dims.sets), dy(dims.sets * dims.size);
    run(queue, kernels::MseForward<float>{
                   .dims = dims, .y = y.data(), .target = target.data(), .loss = loss.data()});
    run(queue, kernels::MseBackward<float>{.dims = dims,
                                           .y = y.data(),
                                           .target = target.data(),
                                           .weights = weights.data(),
                                           .dloss = loss.data(),
                                           .dy = {dy.data()}});
    std::vector<float> all = harness::values_of_all({&loss, &dy});
    run(queue, kernels::MseForward<float>{.dims = dims,
                                          .y = y.data(),
                                          .target = target.data(),
                                          .weights = weights.data(),
                                          .loss = loss.data()});
    const std::vector<float> weighted = harness::values_of_all({&loss});
    all.insert(all.end(), weighted.begin(), weighted.end());
    return all;
  });
}

BACKEND_TEST(Mse, SameBitsEveryTime) {
  for (const MseDims& dims : kDims) check_same_bits<Backend>(dims);
}

BACKEND_TEST(Mse, LetsNaNThrough) {
  Backend::for_types([]<class T>(auto& queue) {
    auto values = Draw(5).normals<T>(40000);
    values[39999] = std::numeric_limits<T>::quiet_NaN();
    using Buffer = harness::BufferOn<Backend, T>;
    const Buffer y(values), target(std::vector<T>{1});
    Buffer loss(std::vector<T>{0});
    run(queue,
        kernels::MseForward<T>{
            .dims = {40000, 1}, .y = y.data(), .target = target.data(), .loss = loss.data()});
    EXPECT_TRUE(std::isnan(loss.values()[0]));
  });
}

TEST(Mse, Gradients) {
  Draw draw(3);
  for (std::uint64_t i = 0; i < 110; ++i) {
    const std::int64_t samples = draw.integer(1, 5);
    const std::int64_t length = draw.integer(1, 30);
    const bool shared = draw.integer(0, 1) == 1;
    const Tensor target = draw.tensor(shared ? Shape{length} : Shape{samples, length, 1});
    const Tensor weights = i % 3 == 0 ? Tensor() : draw.tensor({length, 1});
    harness::expect_gradients(
        [&](Tape&, std::span<const Var> in) { return mse(in[0], target, weights); },
        std::vector{draw.tensor({samples, length, 1})}, {.seed = i});
  }
}

// Each by itself, and each with its own part of the cotangent.
TEST(Mse, OfEachIsEachAlone) {
  Draw draw(4);
  const Tensor target = draw.tensor({7}), y = draw.tensor({3, 2, 7}), cotangent = draw.tensor({3});
  Tape tape(harness::device(), DType::kF64);
  const Var all = tape.leaf(y);
  const Var losses = mse_of_each(all, target);
  ASSERT_TRUE((losses.shape() == Shape{3}));
  tape.backward(losses, cotangent);
  const auto gradients = harness::values_of(tape.gradient(all));
  for (std::int64_t set = 0; set < 3; ++set) {
    const Var one = tape.leaf(y.slice(14 * set, 14).reshape({2, 7}));
    const Var loss = mse(one, target);
    tape.backward(loss, cotangent.slice(set, 1));
    EXPECT_EQ(losses.data<double>()[set], loss.data<double>()[0]);
    const auto gradient = harness::values_of(tape.gradient(one));
    const auto own = gradients.begin() + 14 * set;
    EXPECT_EQ(gradient, std::vector<double>(own, own + 14));
  }
  EXPECT_EQ(error_of([&] { mse_of_each(all, draw.tensor({4})); }),
            "mse: a target of [4] does not fit a prediction of [3, 2, 7]");
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
  const auto weighted = [&](const Tensor& weights) {
    return error_of([&] { mse(y, zeros({4, 9, 1}), weights); });
  };
  EXPECT_EQ(weighted(zeros({9, 1})), "no error");
  EXPECT_EQ(weighted(zeros({4, 9, 1})), "no error");
  EXPECT_EQ(weighted(zeros({10})), "mse: weights of [10] do not fit a prediction of [4, 9, 1]");
  EXPECT_EQ(weighted(zeros({0})), "mse: weights of [0] do not fit a prediction of [4, 9, 1]");
  EXPECT_EQ(weighted(zeros({9, 1}, DType::kF32)), "mse: expected weights of type f64");
}

}  // namespace
}  // namespace sidechannel
