#pragma once

// Kernels of dense layers against their definition, for every backend: Buffer is where its kernels
// find their data (Walled, or DeviceBuffer of cuda_check.h).

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "kernels/linear.h"
#include "tests/harness/op_check.h"

namespace sidechannel::harness {

// Several blocks of rows and of outputs, whole and not.
inline const std::vector<kernels::LinearDims> kLargeLinearDims = {
    {300, 32, 130, kRelu}, {257, 65, 64, kNone}, {129, 256, 1, kNone},
    {1, 100, 200, kRelu},  {500, 1, 3, kRelu},   {128, 64, 128, kRelu},
};

inline std::vector<kernels::LinearDims> linear_dims(int count) {
  std::vector<kernels::LinearDims> all = {
      {1, 1, 1, kNone}, {1, 1, 1, kRelu}, {5, 1, 3, kRelu}, {1, 7, 1, kNone}, {13, 3, 17, kRelu},
  };
  Draw draw(5);
  while (static_cast<int>(all.size()) < count) {
    all.push_back({draw.pick({1, 2, 3, 5, 8, 11, 17, 33}), draw.pick({1, 2, 3, 4, 7, 8, 13, 16}),
                   draw.pick({1, 2, 3, 5, 8, 9, 15, 17}), draw.integer(0, 1) == 1 ? kRelu : kNone});
  }
  return all;
}

inline std::string text(const kernels::LinearDims& d) {
  return fmt::format("rows={} in={} out={} relu={}", d.rows, d.in, d.out, d.activation == kRelu);
}

// Contents whose outputs stay clear of the ReLU's kink, by the choice of the bias.
struct LinearCase {
  std::vector<double> x, w, b, dy;
};

template <class T>
LinearCase make_linear_case(const kernels::LinearDims& d, std::uint64_t seed) {
  Draw draw(seed);
  const auto rounded = [&](std::int64_t size) {
    const auto values = draw.normals<T>(size);
    return std::vector<double>(values.begin(), values.end());
  };
  LinearCase c{rounded(d.rows * d.in), rounded(d.out * d.in), {}, rounded(d.rows * d.out)};
  for (std::int64_t o = 0; o < d.out; ++o) {
    std::vector<double> negated;
    for (std::int64_t r = 0; r < d.rows; ++r) {
      double sum = 0;
      for (std::int64_t i = 0; i < d.in; ++i) {
        sum -= c.x[static_cast<std::size_t>(r * d.in + i)] *
               c.w[static_cast<std::size_t>(o * d.in + i)];
      }
      negated.push_back(sum);
    }
    c.b.push_back(static_cast<T>(clear_of(negated)));
  }
  return c;
}

// `operand_roundings`: how many roundings of T it counts for that products are taken of rounded
// factors.
template <class T, template <class> class Buffer = Walled, class Queue>
void check_linear(Queue& queue, const kernels::LinearDims& d, std::int64_t operand_roundings = 0) {
  SCOPED_TRACE(text(d));
  const LinearCase c = make_linear_case<T>(d, 7);
  Reference y(d.rows * d.out), dx(d.rows * d.in), dw(d.out * d.in), db(d.out);
  for (std::int64_t r = 0; r < d.rows; ++r) {
    for (std::int64_t o = 0; o < d.out; ++o) {
      const std::int64_t at = r * d.out + o;
      y.add(at, c.b[static_cast<std::size_t>(o)]);
      for (std::int64_t i = 0; i < d.in; ++i) {
        y.add(at, c.x[static_cast<std::size_t>(r * d.in + i)] *
                      c.w[static_cast<std::size_t>(o * d.in + i)]);
      }
      double& value = y.value[static_cast<std::size_t>(at)];
      if (d.activation == kRelu) value = std::max(value, 0.0);
    }
  }
  const Buffer<T> x(narrowed<T>(c.x)), w(narrowed<T>(c.w)), b(narrowed<T>(c.b)),
      dy(narrowed<T>(c.dy));
  Buffer<T> out(d.rows * d.out);
  run(queue, kernels::LinearForward<T>{
                 .dims = d, .x = x.data(), .w = w.data(), .b = b.data(), .y = out.data()});
  expect_near<T>("y", out.values(), y, d.in + 1 + operand_roundings);
  EXPECT_TRUE(out.walls_stand());

  // The mask is that of the kernel's own output: rounded factors may move it across the kink.
  const auto out_values = out.values();
  for (std::int64_t r = 0; r < d.rows; ++r) {
    for (std::int64_t o = 0; o < d.out; ++o) {
      const auto at = static_cast<std::size_t>(r * d.out + o);
      const double g = d.activation == kNone || out_values[at] > 0 ? c.dy[at] : 0;
      db.add(o, g);
      for (std::int64_t i = 0; i < d.in; ++i) {
        dx.add(r * d.in + i, g * c.w[static_cast<std::size_t>(o * d.in + i)]);
        dw.add(o * d.in + i, g * c.x[static_cast<std::size_t>(r * d.in + i)]);
      }
    }
  }
  using Out = kernels::GradOut<T>;
  const auto backward = [&](Out to_x, Out to_w, Out to_b) {
    run(queue, kernels::LinearBackward<T>{.dims = d,
                                          .x = x.data(),
                                          .w = w.data(),
                                          .y = out.data(),
                                          .dy = dy.data(),
                                          .dx = to_x,
                                          .dw = to_w,
                                          .db = to_b});
  };
  const std::int64_t of_dx = d.out + operand_roundings;
  const std::int64_t of_dw = d.rows + operand_roundings;
  expect_gradient<T, Buffer>("dx", dx, of_dx, [&](Out a) { backward(a, {}, {}); });
  expect_gradient<T, Buffer>("dw", dw, of_dw, [&](Out a) { backward({}, a, {}); });
  expect_gradient<T, Buffer>("db", db, d.rows, [&](Out a) { backward({}, {}, a); });
  Buffer<T> all_x(d.rows * d.in), all_w(d.out * d.in), all_b(d.out);
  backward({all_x.data()}, {all_w.data()}, {all_b.data()});
  expect_near<T>("dx", all_x.values(), dx, of_dx);
  expect_near<T>("dw", all_w.values(), dw, of_dw);
  expect_near<T>("db", all_b.values(), db, d.rows);
  EXPECT_TRUE(all_x.walls_stand() && all_w.walls_stand() && all_b.walls_stand());
  backward({}, {}, {});
}

}  // namespace sidechannel::harness
