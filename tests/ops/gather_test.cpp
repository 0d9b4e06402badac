#include "kernels/gather.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::tensor_of;
using harness::values_of;
using kernels::GatherDims;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(Gather, TakesRowsOfATable) {
  Tape tape(harness::device(), DType::kF64);
  const Tensor table = tensor_of({1, 2, 3, 4, 5, 6}, {3, 2});
  const Var y = gather(table, tape.constant(tensor_of({2, 0, 2, 1}, {4})));
  EXPECT_TRUE((y.shape() == Shape{4, 2}));
  EXPECT_EQ(values_of(y.value()), (std::vector<double>{5, 6, 1, 2, 5, 6, 3, 4}));
  // Rows of one number, and of several axes.
  const Var one = gather(tensor_of({7, 8, 9}, {3}), tape.constant(tensor_of({1}, {1})));
  EXPECT_TRUE((one.shape() == Shape{1}));
  EXPECT_EQ(values_of(one.value()), std::vector<double>{8});
  const Var wide = gather(table.reshape({3, 1, 2}), tape.constant(tensor_of({1}, {1})));
  EXPECT_TRUE((wide.shape() == Shape{1, 1, 2}));
  EXPECT_EQ(values_of(wide.value()), (std::vector<double>{3, 4}));
}

TEST(Gather, TakesWindowsOfSequences) {
  Tape tape(harness::device(), DType::kF64);
  const Tensor x = tensor_of({1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8, -8}, {2, 4, 2});
  // Three starts in a sequence.
  const Var y = gather_windows(x, tape.constant(tensor_of({0, 2, 3, 5}, {4})), 2);
  EXPECT_TRUE((y.shape() == Shape{4, 2, 2}));
  EXPECT_EQ(values_of(y.value()),
            (std::vector<double>{1, -1, 2, -2, 3, -3, 4, -4, 5, -5, 6, -6, 7, -7, 8, -8}));
  // One start: whole sequences.
  EXPECT_EQ(values_of(gather_windows(x, tape.constant(tensor_of({1}, {1})), 4).value()),
            (std::vector<double>{5, -5, 6, -6, 7, -7, 8, -8}));
}

TEST(Gather, WhatIsOutsideMeansTheNearest) {
  Tape tape(harness::device(), DType::kF64);
  const Tensor table = tensor_of({10, 20, 30}, {3});
  const auto at = [&](double index) {
    return gather(table, tape.constant(tensor_of({index}, {1}))).value().item();
  };
  for (const double first : {0.0, -0.0, 0.75, -1.0, -1e300, -kInfinity, kNaN}) {
    EXPECT_EQ(at(first), 10) << first;
  }
  for (const double second : {1.0, 1.999}) EXPECT_EQ(at(second), 20) << second;
  for (const double last : {2.0, 3.0, 1e300, kInfinity}) EXPECT_EQ(at(last), 30) << last;
}

// Each is here for a reason; generated ones follow. A table's rows, and windows.
std::vector<GatherDims> all_dims(int count) {
  const auto windows = [](std::int64_t rows, std::int64_t sequences, std::int64_t length,
                          std::int64_t channels, std::int64_t window) {
    return GatherDims{rows,    window * channels, sequences, length * channels, length - window + 1,
                      channels};
  };
  std::vector<GatherDims> all = {{1, 1, 1, 1},  // the smallest
                                 {5, 1, 9, 1},
                                 {7, 4, 3, 4},  // numbers, vectors
                                 {9, 33, 20, 33},
                                 {40, 128, 1000, 128},  // several blocks
                                 {0, 3, 4, 3},
                                 {3, 0, 4, 0},  // nothing to take
                                 windows(1, 1, 1, 1, 1),
                                 windows(6, 3, 9, 1, 4),     // overlapping
                                 windows(33, 5, 40, 6, 32),  // a planner's
                                 windows(4, 2, 7, 3, 7)};    // whole sequences
  Draw draw(7);
  while (static_cast<int>(all.size()) < count) {
    const std::int64_t length = draw.integer(1, 20);
    all.push_back(windows(draw.integer(1, 9), draw.integer(1, 9), length, draw.integer(1, 9),
                          draw.integer(1, length)));
  }
  return all;
}

// By the definition; `off` is how far a wrong variant reads beside it.
template <class T>
std::vector<T> taken(const GatherDims& dims, const std::vector<T>& x, const std::vector<T>& index,
                     std::int64_t off = 0) {
  std::vector<T> y;
  for (const T place : index) {
    std::int64_t whole = 0;  // counted up to it
    while (static_cast<T>(whole + 1) <= place && whole + 1 < dims.sequences * dims.starts) ++whole;
    const std::int64_t sequence = whole / dims.starts, start = whole % dims.starts;
    const auto from =
        x.begin() + std::clamp<std::int64_t>(sequence * dims.extent + start * dims.step + off, 0,
                                             static_cast<std::int64_t>(x.size()) - dims.width);
    y.insert(y.end(), from, from + dims.width);
  }
  return y;
}

// Places inside, and beyond both ends: nothing outside of x is read, whose walls are NaN.
template <class Backend, class T>
void check_kernel(auto& queue, const GatherDims& dims, std::int64_t off = 0) {
  SCOPED_TRACE(fmt::format("rows={} width={} sequences={} extent={} starts={}", dims.rows,
                           dims.width, dims.sequences, dims.extent, dims.starts));
  Draw draw(static_cast<std::uint64_t>(dims.rows + dims.width));
  const auto x = draw.normals<T>(dims.sequences * dims.extent);
  std::vector<T> index;
  for (std::int64_t n = 0; n < dims.rows; ++n) {
    index.push_back(static_cast<T>(draw.integer(0, dims.sequences * dims.starts - 1)));
  }
  const double outside[] = {double(dims.sequences * dims.starts), -1, kNaN, 1e30, -1e30, kInfinity};
  for (std::size_t i = 0; i < std::size(outside) && 2 * i + 1 < index.size(); ++i) {
    index[2 * i + 1] = static_cast<T>(outside[i]);
  }
  using Buffer = harness::BufferOn<Backend, T>;
  const Buffer in(x), places(index);
  Buffer y(dims.rows * dims.width);
  run(queue,
      kernels::Gather<T>{.dims = dims, .x = in.data(), .index = places.data(), .y = y.data()});
  EXPECT_TRUE(y.walls_stand());
  harness::expect_equal_bits("y", y.values(), taken(dims, x, index, off));
}

BACKEND_TEST(Gather, AgreesWithTheDefinition) {
  for (const GatherDims& dims : all_dims(60)) {
    Backend::for_types([&]<class T>(auto& queue) {
      Backend::for_alignments([&] { check_kernel<Backend, T>(queue, dims); });
    });
  }
}

BACKEND_TEST(Gather, WindowsThatAreOffByOneAreFound) {
  Backend::for_types([]<class T>(auto& queue) {
    const GatherDims dims{9, 12, 4, 60, 17, 3};
    EXPECT_EQ(harness::failures_of([&] { check_kernel<Backend, T>(queue, dims); }), 0);
    for (const std::int64_t off : {1, 3}) {
      EXPECT_EQ(harness::failures_of([&] { check_kernel<Backend, T>(queue, dims, off); }), 1);
    }
  });
}

BACKEND_TEST(Gather, SameBitsEveryTime) {
  using Buffer = harness::BufferOn<Backend, float>;
  const GatherDims dims{500, 48, 20, 96, 17, 3};
  const Buffer x(Draw(1).normals<float>(20 * 96));
  const Buffer index(Draw(2).normals<float>(500, 170, 100));
  Backend::expect_same_bits("gather", [&](auto& queue) {
    Buffer y(dims.rows * dims.width);
    run(queue,
        kernels::Gather<float>{.dims = dims, .x = x.data(), .index = index.data(), .y = y.data()});
    return harness::values_of_all({&y});
  });
}

TEST(Gather, RefusesWhatDoesNotFit) {
  Tape tape(harness::device(), DType::kF32);
  const auto zeros = [](Shape shape, DType dtype = DType::kF32) {
    return Tensor::zeros(harness::device(), dtype, shape);
  };
  const Var index = tape.make({4});
  const auto rows = [&](const Tensor& x, const Var& at) {
    return error_of([&] { gather(x, at); });
  };
  EXPECT_EQ(rows(zeros({3, 2}), index), "no error");
  EXPECT_EQ(rows(Tensor(), index), "gather: expected a table [rows, ...], got []");
  EXPECT_EQ(rows(zeros({}), index), "gather: expected a table [rows, ...], got []");
  EXPECT_EQ(rows(zeros({0, 2}), index), "gather: there is nothing to take in [0, 2]");
  EXPECT_EQ(rows(zeros({3, 2}), tape.make({4, 1})),
            "gather: expected an index of shape [N], got [4, 1]");
  EXPECT_EQ(rows(zeros({3, 2}), tape.leaf(zeros({4}))),
            "gather: no gradient goes through an index");
  EXPECT_EQ(rows(zeros({3, 2}, DType::kF64), index),
            "gather: expected what it takes from in f32 on cpu, as the index is; got f64 on cpu");
  // Rows without elements need no memory: the most that f32 can tell apart, and one more.
  EXPECT_EQ(rows(zeros({1 << 24, 0}), index), "no error");
  EXPECT_EQ(rows(zeros({(1 << 24) + 1, 0}), index),
            "gather: 16777217 places are more than the 2^24 that f32 can tell apart");
  Tape wide(harness::device(), DType::kF64);
  EXPECT_EQ(rows(zeros({(1 << 24) + 1, 0}, DType::kF64), wide.make({4})), "no error");

  const auto windows = [&](const Tensor& x, std::int64_t length) {
    return error_of([&] { gather_windows(x, index, length); });
  };
  EXPECT_EQ(windows(zeros({3, 5, 2}), 5), "no error");
  EXPECT_EQ(windows(zeros({3, 5}), 5),
            "gather_windows: expected sequences [sequences, L, C], got [3, 5]");
  EXPECT_EQ(windows(Tensor(), 5), "gather_windows: expected sequences [sequences, L, C], got []");
  for (const std::int64_t length : {0, 6, -1}) {
    EXPECT_EQ(windows(zeros({3, 5, 2}), length),
              fmt::format("gather_windows: expected a window of 1 to 5 positions, got {}", length));
  }
  EXPECT_EQ(windows(zeros({0, 5, 2}), 5), "gather_windows: there is nothing to take in [0, 5, 2]");
}

}  // namespace
}  // namespace sidechannel
