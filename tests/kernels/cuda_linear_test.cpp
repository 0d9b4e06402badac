#include "kernels/linear.h"

#include <gtest/gtest.h>

#include "tests/harness/cuda_check.h"
#include "tests/harness/linear_check.h"

namespace sidechannel {
namespace {

using harness::check_linear;
using harness::cuda_queue;
using harness::DeviceBuffer;
using harness::narrowed;
using kernels::LinearDims;
using kernels::Precision;
using enum kernels::Activation;

class CudaLinear : public harness::CudaTest {};

// Beside the shapes of all backends: a probe's three layers, with rows that do not fill the last
// tile, and one output over rows of every width a warp is divided by.
std::vector<LinearDims> shapes() {
  std::vector<LinearDims> all = harness::linear_dims(60);
  for (const LinearDims& dims : harness::kLargeLinearDims) all.push_back(dims);
  for (const LinearDims& dims : {
           LinearDims{601, 32, 16, kRelu},
           {601, 16, 16, kRelu},
           {601, 16, 1, kNone},
           {1025, 64, 1, kRelu},  // two tiles of rows and one row more
           {40, 132, 1, kNone},   // wider than a tile's 128
           {40, 31, 1, kNone},    // no packs; a warp's lanes but one
           {70, 33, 1, kRelu},    // one lane takes two columns
           {9, 2, 1, kNone},      // two lanes a row
           {300, 8, 132, kNone},  // db in two tiles of columns
       }) {
    all.push_back(dims);
  }
  return all;
}

TEST_F(CudaLinear, KernelsAgreeWithTheDefinition) {
  for (const LinearDims& dims : shapes()) {
    check_linear<float, DeviceBuffer>(cuda_queue(), dims);
    if (HasFatalFailure()) return;
  }
}

// TF32 keeps 10 bits of a factor's mantissa; where it is cut off instead of rounded, that is off by
// 2^-10, as much as 2^14 roundings in f32. Two factors.
TEST_F(CudaLinear, KernelsAgreeWithTheDefinitionInTf32) {
  for (const LinearDims& dims : shapes()) {
    check_linear<float, DeviceBuffer>(cuda_queue(Precision::kTf32), dims, 2 << 14);
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaLinear, BuffersNeedNoAlignment) {
  const DeviceBuffer<float>::Misaligned misaligned;
  for (const LinearDims& dims : {LinearDims{50, 64, 32, kRelu}, LinearDims{50, 32, 1, kRelu},
                                 LinearDims{50, 32, 8, kNone}}) {
    check_linear<float, DeviceBuffer>(cuda_queue(), dims);
  }
}

TEST_F(CudaLinear, SameBitsInEveryRun) {
  for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
    kernels::CudaQueue& queue = cuda_queue(precision);
    for (const LinearDims& d : harness::kLargeLinearDims) {
      const harness::LinearCase c = harness::make_linear_case<float>(d, 3);
      const DeviceBuffer<float> x(narrowed<float>(c.x)), w(narrowed<float>(c.w)),
          b(narrowed<float>(c.b)), dy(narrowed<float>(c.dy));
      DeviceBuffer<float> y(d.rows * d.out), dx(d.rows * d.in), dw(d.out * d.in), db(d.out);
      harness::expect_same_device_bits(harness::text(d), [&] {
        run(queue, kernels::LinearForward<float>{
                       .dims = d, .x = x.data(), .w = w.data(), .b = b.data(), .y = y.data()});
        run(queue, kernels::LinearBackward<float>{.dims = d,
                                                  .x = x.data(),
                                                  .w = w.data(),
                                                  .y = y.data(),
                                                  .dy = dy.data(),
                                                  .dx = {dx.data()},
                                                  .dw = {dw.data()},
                                                  .db = {db.data()}});
        queue.synchronize();
        std::vector<float> all;
        for (const auto* part : {&y, &dx, &dw, &db}) {
          const auto values = part->values();
          all.insert(all.end(), values.begin(), values.end());
        }
        return all;
      });
    }
  }
}

// A dead unit that hides a NaN would let a failed training go on.
TEST_F(CudaLinear, LetsNaNThrough) {
  for (const std::int64_t out : {1, 6}) {
    for (const kernels::Activation activation : {kNone, kRelu}) {
      const DeviceBuffer<float> x(std::vector<float>{1, std::numeric_limits<float>::quiet_NaN()}),
          w(std::vector<float>(static_cast<std::size_t>(2 * out), 1)),
          b(std::vector<float>(static_cast<std::size_t>(out), 0));
      DeviceBuffer<float> y(out);
      run(cuda_queue(), kernels::LinearForward<float>{.dims = {1, 2, out, activation},
                                                      .x = x.data(),
                                                      .w = w.data(),
                                                      .b = b.data(),
                                                      .y = y.data()});
      for (const float value : y.values()) EXPECT_TRUE(std::isnan(value));
    }
  }
}

}  // namespace
}  // namespace sidechannel
