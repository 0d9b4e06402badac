#include "kernels/concat.h"

#include <gtest/gtest.h>

#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::Reference;
using harness::values_of;
using kernels::ConcatDims;
using kernels::GradOut;

TEST(Concat, PutsChannelsSideBySide) {
  Tape tape(harness::device(), DType::kF64);
  const Var a = tape.constant(harness::tensor_of({1, 2, 3, 4}, {1, 2, 2}));
  const Var b = tape.constant(harness::tensor_of({5, 6}, {1, 2, 1}));
  const Var y = concat(a, b);
  EXPECT_TRUE((y.shape() == Shape{1, 2, 3}));
  EXPECT_EQ(values_of(y.value()), (std::vector<double>{1, 2, 5, 3, 4, 6}));
  EXPECT_EQ(values_of(concat(b, a).value()), (std::vector<double>{5, 1, 2, 6, 3, 4}));
  EXPECT_EQ(values_of(concat(b, b).value()), (std::vector<double>{5, 5, 6, 6}));
}

// Each is here for a reason; generated ones follow.
std::vector<ConcatDims> all_dims(int count) {
  std::vector<ConcatDims> all = {
      {1, 1, 1},                              // the smallest
      {3, 4, 8},     {5, 3, 4},   {5, 4, 3},  // whole vectors, and parts
      {300, 32, 32}, {77, 1, 31},             // several blocks
      {3, 0, 5},     {3, 5, 0},   {0, 3, 4},  // a part without channels, nothing at all
  };
  Draw draw(7);
  while (static_cast<int>(all.size()) < count) {
    all.push_back({draw.integer(1, 40), draw.integer(1, 40), draw.integer(1, 40)});
  }
  return all;
}

// Where element (row, c) of the first part or the second lies in y.
template <class F>
void for_elements(const ConcatDims& dims, bool second, const F& f) {
  const std::int64_t channels = second ? dims.channels_b : dims.channels_a;
  for (std::int64_t row = 0; row < dims.rows; ++row) {
    for (std::int64_t c = 0; c < channels; ++c) {
      f(row * channels + c,
        row * (dims.channels_a + dims.channels_b) + (second ? dims.channels_a : 0) + c);
    }
  }
}

// `computed` are the dims that the kernel gets: those of the definition, but in a wrong variant.
template <class Backend, class T>
void check_kernels(auto& queue, const ConcatDims& dims, const ConcatDims& computed) {
  SCOPED_TRACE(fmt::format("{} rows of {} + {}", dims.rows, dims.channels_a, dims.channels_b));
  Draw draw(5);
  const auto a = draw.normals<T>(dims.rows * dims.channels_a),
             b = draw.normals<T>(dims.rows * dims.channels_b),
             dy = draw.normals<T>(dims.rows * dims.channels());
  Reference y(dims.rows * dims.channels()), da(static_cast<std::int64_t>(a.size())),
      db(static_cast<std::int64_t>(b.size()));
  for (const bool second : {false, true}) {
    for_elements(dims, second, [&](std::int64_t from, std::int64_t to) {
      y.add(to, double((second ? b : a)[static_cast<std::size_t>(from)]));
      (second ? db : da).add(from, double(dy[static_cast<std::size_t>(to)]));
    });
  }
  using Buffer = harness::BufferOn<Backend, T>;
  const Buffer in_a(a), in_b(b), cotangent(dy);
  Buffer out(dims.rows * dims.channels());
  run(queue, kernels::ConcatForward<T>{
                 .dims = computed, .a = in_a.data(), .b = in_b.data(), .y = out.data()});
  harness::expect_near<T>("y", out.values(), y, 0);
  EXPECT_TRUE(out.walls_stand());
  kernels::ConcatBackward<T> call{.dims = computed, .dy = cotangent.data()};
  run(queue, call);  // nobody asked
  harness::expect_gradient<Buffer>("da", da, 0, [&](GradOut<T> to) {
    call.da = to;
    run(queue, call);
  });
  call.da = {};
  harness::expect_gradient<Buffer>("db", db, 0, [&](GradOut<T> to) {
    call.db = to;
    run(queue, call);
  });
}

BACKEND_TEST(Concat, AgreesWithTheDefinition) {
  for (const ConcatDims& dims : all_dims(40)) {
    Backend::for_types([&]<class T>(auto& queue) {
      Backend::for_alignments([&] { check_kernels<Backend, T>(queue, dims, dims); });
    });
  }
}

BACKEND_TEST(Concat, ASeamInAWrongPlaceIsFound) {
  Backend::for_types([]<class T>(auto& queue) {
    EXPECT_GE(harness::failures_of([&] {
                check_kernels<Backend, T>(queue, {3, 4, 4}, {3, 3, 4});
              }),
              3);
  });
}

BACKEND_TEST(Concat, SameBitsEveryTime) {
  using Buffer = harness::BufferOn<Backend, float>;
  const ConcatDims dims{1234, 7, 5};
  const Buffer a(Draw(1).normals<float>(dims.rows * 7)), b(Draw(2).normals<float>(dims.rows * 5)),
      dy(Draw(3).normals<float>(dims.rows * 12));
  Backend::expect_same_bits("concat", [&](auto& queue) {
    Buffer y(dims.rows * 12), da(dims.rows * 7), db(dims.rows * 5);
    run(queue,
        kernels::ConcatForward<float>{.dims = dims, .a = a.data(), .b = b.data(), .y = y.data()});
    run(queue, kernels::ConcatBackward<float>{
                   .dims = dims, .dy = dy.data(), .da = {da.data()}, .db = {db.data()}});
    return harness::values_of_all({&y, &da, &db});
  });
}

TEST(Concat, Gradients) {
  Draw draw(3);
  for (std::uint64_t i = 0; i < 110; ++i) {
    const std::int64_t n = draw.integer(1, 3), l = draw.integer(1, 7);
    const Tensor a = draw.tensor({n, l, draw.integer(1, 6)});
    const bool twice = i % 4 == 0;
    harness::expect_gradients(
        [=](Tape&, std::span<const Var> in) { return concat(in[0], in[twice ? 0 : 1]); },
        std::vector{a, draw.tensor({n, l, draw.integer(1, 6)})}, {.seed = i});
  }
}

TEST(Concat, RefusesOtherShapes) {
  Tape tape(harness::device(), DType::kF64);
  const auto both = [&](Shape a, Shape b) {
    return error_of([&] { concat(tape.make(a), tape.make(b)); });
  };
  const std::string told = "concat: expected two [N, L, C] of one N and one L, got ";
  EXPECT_EQ(both({2, 5, 3}, {2, 5, 1}), "no error");
  EXPECT_EQ(both({2, 5, 3}, {3, 5, 3}), told + "[2, 5, 3] and [3, 5, 3]");
  EXPECT_EQ(both({2, 5, 3}, {2, 4, 3}), told + "[2, 5, 3] and [2, 4, 3]");
  EXPECT_EQ(both({2, 5}, {2, 5, 3}), told + "[2, 5] and [2, 5, 3]");
  EXPECT_EQ(both({2, 5, 3}, {2, 5}), told + "[2, 5, 3] and [2, 5]");
}

}  // namespace
}  // namespace sidechannel
