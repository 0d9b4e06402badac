#include "kernels/add.h"

#include <gtest/gtest.h>

#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::Reference;
using harness::values_of;
using kernels::AddDims;
using kernels::GradOut;

TEST(Add, AddsRowsAtEveryPosition) {
  Tape tape(harness::device(), DType::kF64);
  const Var a = tape.constant(harness::tensor_of({1, 2, 3, 4, 5, 6, 7, 8}, {2, 2, 2}));
  const Var b = tape.constant(harness::tensor_of({10, 20, 30, 40}, {2, 2}));
  EXPECT_EQ(values_of(add(a, b).value()), (std::vector<double>{11, 22, 13, 24, 35, 46, 37, 48}));
  EXPECT_EQ(values_of(add(a, a).value()), (std::vector<double>{2, 4, 6, 8, 10, 12, 14, 16}));
}

// Each is here for a reason; generated ones follow.
std::vector<AddDims> all_dims(int count) {
  std::vector<AddDims> all = {
      {1, 1, 1},                              // the smallest
      {1, 1, 7},     {1, 1, 4099},            // of one shape, more than a block's elements
      {3, 1, 5},                              // rows of one position: of one shape, too
      {2, 3, 4},     {2, 8, 32},              // whole warps, and one position for each
      {2, 9, 33},    {3, 7, 31},              // around a warp's and a block's share
      {2, 40, 64},   {1, 257, 65},            // the channels that the CPU sums side by side
      {40, 16, 130}, {1, 3000, 2},            // several tiles, long sums
      {2, 0, 5},     {0, 3, 4},    {2, 3, 0}  // sums over nothing, nothing at all
  };
  Draw draw(7);
  while (static_cast<int>(all.size()) < count) {
    all.push_back({draw.integer(1, 5), draw.integer(1, 70), draw.integer(1, 70)});
  }
  return all;
}

// y = a + b and db by the definition.
struct References {
  Reference y, da, db;
};
template <class T>
References references_of(const AddDims& dims, const std::vector<T>& a, const std::vector<T>& b,
                         const std::vector<T>& dy) {
  References all{Reference(dims.size()), Reference(dims.size()),
                 Reference(dims.batch * dims.channels)};
  std::int64_t i = 0;
  for (std::int64_t n = 0; n < dims.batch; ++n) {
    for (std::int64_t l = 0; l < dims.length; ++l) {
      for (std::int64_t c = 0; c < dims.channels; ++c, ++i) {
        const std::int64_t row = n * dims.channels + c;
        all.y.add(i, double(a[static_cast<std::size_t>(i)]));
        all.y.add(i, double(b[static_cast<std::size_t>(row)]));
        all.da.add(i, double(dy[static_cast<std::size_t>(i)]));
        all.db.add(row, double(dy[static_cast<std::size_t>(i)]));
      }
    }
  }
  return all;
}

// `computed` are the dims that the kernel gets: those of the references, but in wrong variants.
template <class Backend, class T>
void check_kernels(auto& queue, const AddDims& dims, const AddDims& computed) {
  SCOPED_TRACE(fmt::format("N={} L={} C={}", dims.batch, dims.length, dims.channels));
  Draw draw(static_cast<std::uint64_t>(dims.size()));
  const auto a = draw.normals<T>(dims.size()), b = draw.normals<T>(dims.batch * dims.channels),
             dy = draw.normals<T>(dims.size());
  const References expected = references_of(dims, a, b, dy);
  using Buffer = harness::BufferOn<Backend, T>;
  const Buffer in_a(a), in_b(b), cotangent(dy);
  Buffer y(dims.size());
  run(queue,
      kernels::AddForward<T>{.dims = computed, .a = in_a.data(), .b = in_b.data(), .y = y.data()});
  harness::expect_near<T>("y", y.values(), expected.y, 1);
  EXPECT_TRUE(y.walls_stand());
  kernels::AddBackward<T> call{.dims = computed, .dy = cotangent.data()};
  run(queue, call);  // nobody asked
  harness::expect_gradient<Buffer>("da", expected.da, 0, [&](GradOut<T> to) {
    call.da = to;
    run(queue, call);
  });
  call.da = {};
  // In double whatever T is, rounded to T in the end; for T = double the sum's own roundings count.
  const std::int64_t roundings = sizeof(T) == 4 ? 2 : dims.length;
  harness::expect_gradient<Buffer>("db", expected.db, roundings, [&](GradOut<T> to) {
    call.db = to;
    run(queue, call);
  });
}

BACKEND_TEST(Add, AgreesWithTheDefinition) {
  for (const AddDims& dims : all_dims(40)) {
    Backend::for_types([&]<class T>(auto& queue) {
      Backend::for_alignments([&] { check_kernels<Backend, T>(queue, dims, dims); });
    });
  }
}

// Known-wrong variants: a sum that forgets the last position, and rows of half of their channels.
BACKEND_TEST(Add, WrongSumsAreFound) {
  Backend::for_types([]<class T>(auto& queue) {
    const auto failures = [&](const AddDims& computed) {
      return harness::failures_of([&] { check_kernels<Backend, T>(queue, {1, 12, 6}, computed); });
    };
    EXPECT_EQ(failures({1, 12, 6}), 0);
    EXPECT_GE(failures({1, 11, 6}), 3);
    EXPECT_GE(failures({1, 24, 3}), 2);
  });
}

BACKEND_TEST(Add, SameBitsEveryTime) {
  using Buffer = harness::BufferOn<Backend, float>;
  for (const AddDims& dims : {AddDims{1, 1, 20011}, {5, 123, 67}, {2, 3000, 3}}) {
    const Buffer a(Draw(1).normals<float>(dims.size())), dy(Draw(2).normals<float>(dims.size())),
        b(Draw(3).normals<float>(dims.batch * dims.channels));
    Backend::expect_same_bits("add", [&](auto& queue) {
      Buffer y(dims.size()), da(dims.size()), db(dims.batch * dims.channels);
      run(queue,
          kernels::AddForward<float>{.dims = dims, .a = a.data(), .b = b.data(), .y = y.data()});
      run(queue, kernels::AddBackward<float>{
                     .dims = dims, .dy = dy.data(), .da = {da.data()}, .db = {db.data()}});
      return harness::values_of_all({&y, &da, &db});
    });
  }
}

TEST(Add, Gradients) {
  Draw draw(3);
  for (std::uint64_t i = 0; i < 120; ++i) {
    const std::int64_t n = draw.integer(1, 4), l = draw.integer(1, 9), c = draw.integer(1, 6);
    const Tensor a = draw.tensor({n, l, c});
    if (i % 3 == 0) {
      harness::expect_gradients([](Tape&, std::span<const Var> in) { return add(in[0], in[0]); },
                                std::vector{a}, {.seed = i});
    } else {
      harness::expect_gradients([](Tape&, std::span<const Var> in) { return add(in[0], in[1]); },
                                std::vector{a, draw.tensor(i % 3 == 1 ? Shape{n, c} : a.shape())},
                                {.seed = i});
    }
  }
}

TEST(Add, RefusesOtherShapes) {
  Tape tape(harness::device(), DType::kF64);
  const auto sum = [&](Shape a, Shape b) {
    return error_of([&] { add(tape.make(a), tape.make(b)); });
  };
  EXPECT_EQ(sum({2, 5, 3}, {2, 3}), "no error");
  EXPECT_EQ(sum({7}, {7}), "no error");
  EXPECT_EQ(sum({2, 5, 3}, {2, 5}),
            "add: expected two of one shape, or [N, L, C] and [N, C], got [2, 5, 3] and [2, 5]");
  EXPECT_EQ(sum({2, 3}, {2, 5, 3}),
            "add: expected two of one shape, or [N, L, C] and [N, C], got [2, 3] and [2, 5, 3]");
  EXPECT_EQ(sum({6}, {2, 3}),
            "add: expected two of one shape, or [N, L, C] and [N, C], got [6] and [2, 3]");
}

}  // namespace
}  // namespace sidechannel
