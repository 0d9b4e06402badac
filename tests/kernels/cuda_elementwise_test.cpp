#include <gtest/gtest.h>

#include "kernels/copy.h"
#include "kernels/fill.h"
#include "kernels/mse.h"
#include "kernels/relu.h"
#include "kernels/windows.h"
#include "tests/harness/cuda_check.h"

namespace sidechannel {
namespace {

using harness::cuda_queue;
using harness::DeviceBuffer;
using harness::Draw;
using harness::Reference;
using kernels::GradOut;
using kernels::MseDims;
using kernels::Write;

class CudaElementwise : public harness::CudaTest {};

// One element; less than, exactly and more than a thread's four; a block's 1024 and one more;
// several blocks.
constexpr std::int64_t kSizes[] = {1, 3, 4, 5, 1023, 1024, 1025, 5000};

// Calls check(size) with buffers that can be moved by 16 bytes, and with ones that cannot.
void for_sizes(const std::function<void(std::int64_t)>& check) {
  for (const std::int64_t size : kSizes) {
    SCOPED_TRACE(size);
    check(size);
    const DeviceBuffer<float>::Misaligned misaligned;
    check(size);
  }
}

// The CPU's kernel is exact here: the same bits are expected, for both ways of writing.
void expect_cpu_bits(std::int64_t size, const std::function<void(GradOut<float>)>& on_cpu,
                     const std::function<void(GradOut<float>)>& on_cuda) {
  const auto before = Draw(11).normals<float>(size);
  for (const Write write : {Write::kOverwrite, Write::kAccumulate}) {
    std::vector<float> expected = before;
    on_cpu({expected.data(), write});
    DeviceBuffer<float> out(before);
    on_cuda({out.data(), write});
    EXPECT_TRUE(out.walls_stand());
    const auto values = out.values();
    ASSERT_EQ(std::memcmp(values.data(), expected.data(), expected.size() * sizeof(float)), 0);
  }
}

TEST_F(CudaElementwise, CopyIsTheCpus) {
  for_sizes([](std::int64_t size) {
    const auto x = Draw(1).normals<float>(size);
    const DeviceBuffer<float> device_x(x);
    expect_cpu_bits(
        size, [&](GradOut<float> y) { copy(harness::queue(), size, x.data(), y); },
        [&](GradOut<float> y) { copy(cuda_queue(), size, device_x.data(), y); });
  });
  copy(cuda_queue(), 3, nullptr, {});  // nobody asked
}

template <class T>
void check_fill(std::int64_t size) {
  DeviceBuffer<T> x(size);
  fill(cuda_queue(), size, T(-1.5), x.data());
  EXPECT_TRUE(x.walls_stand());
  for (const T value : x.values()) ASSERT_EQ(value, T(-1.5));
}

TEST_F(CudaElementwise, FillFillsAll) {
  for (const std::int64_t size : {1, 255, 256, 257, 3000}) {
    check_fill<float>(size);
    check_fill<double>(size);
  }
  fill(cuda_queue(), 0, 1.0f, nullptr);
}

TEST_F(CudaElementwise, WindowsAreTheCpus) {
  // Overlapping, side by side, with gaps, all the same, one; more than a block's elements.
  for (const kernels::WindowsDims dims : {kernels::WindowsDims{3, 2, 33, 17},
                                          {2, 4, 5, 5},
                                          {2, 4, 5, 7},
                                          {3, 2, 9, 0},
                                          {1, 1, 1, 0},
                                          {40, 2, 129, 65}}) {
    SCOPED_TRACE(dims.stride);
    const auto check = [&] {
      const auto x = Draw(12).normals<float>(dims.samples * dims.extent());
      const auto dy = Draw(13).normals<float>(dims.size());
      const DeviceBuffer<float> device_x(x), device_dy(dy);
      std::vector<float> expected(static_cast<std::size_t>(dims.size()));
      run(harness::queue(),
          kernels::WindowsForward<float>{.dims = dims, .x = x.data(), .y = expected.data()});
      DeviceBuffer<float> y(dims.size());
      run(cuda_queue(),
          kernels::WindowsForward<float>{.dims = dims, .x = device_x.data(), .y = y.data()});
      EXPECT_TRUE(y.walls_stand());
      const auto values = y.values();
      EXPECT_TRUE(std::equal(values.begin(), values.end(), expected.begin()));
      expect_cpu_bits(
          dims.samples * dims.extent(),
          [&](GradOut<float> dx) {
            run(harness::queue(),
                kernels::WindowsBackward<float>{.dims = dims, .dy = dy.data(), .dx = dx});
          },
          [&](GradOut<float> dx) {
            run(cuda_queue(),
                kernels::WindowsBackward<float>{.dims = dims, .dy = device_dy.data(), .dx = dx});
          });
    };
    check();
    const DeviceBuffer<float>::Misaligned misaligned;
    check();
  }
  run(cuda_queue(), kernels::WindowsBackward<float>{.dims = {1, 2, 3, 1}});
}

TEST_F(CudaElementwise, ReluIsTheCpus) {
  for_sizes([](std::int64_t size) {
    auto x = Draw(2).normals<float>(size);
    x[0] = std::numeric_limits<float>::quiet_NaN();
    x[x.size() / 2] = -0.0f;
    x[x.size() - 1] = -std::numeric_limits<float>::infinity();
    const DeviceBuffer<float> device_x(x);
    std::vector<float> y(x.size());
    DeviceBuffer<float> device_y(size);
    run(harness::queue(), kernels::ReluForward<float>{.size = size, .x = x.data(), .y = y.data()});
    run(cuda_queue(),
        kernels::ReluForward<float>{.size = size, .x = device_x.data(), .y = device_y.data()});
    EXPECT_TRUE(device_y.walls_stand());
    const auto values = device_y.values();
    ASSERT_EQ(std::memcmp(values.data(), y.data(), y.size() * sizeof(float)), 0);

    const auto dy = Draw(3).normals<float>(size);
    const DeviceBuffer<float> device_dy(dy);
    expect_cpu_bits(
        size,
        [&](GradOut<float> dx) {
          run(harness::queue(),
              kernels::ReluBackward<float>{.size = size, .y = y.data(), .dy = dy.data(), .dx = dx});
        },
        [&](GradOut<float> dx) {
          run(cuda_queue(),
              kernels::ReluBackward<float>{
                  .size = size, .y = device_y.data(), .dy = device_dy.data(), .dx = dx});
        });
  });
  run(cuda_queue(), kernels::ReluBackward<float>{.size = 3});
}

// Sizes around the range of a block, where a second stage begins; targets shorter than a pack, and
// of the whole size.
const std::vector<MseDims> kMseDims = {{1, 1},       {5, 1},      {6, 3},         {1024, 1024},
                                       {5000, 1000}, {32768, 64}, {32769, 32769}, {200000, 50000}};

TEST_F(CudaElementwise, MseAgreesWithTheDefinition) {
  for (const MseDims& dims : kMseDims) {
    SCOPED_TRACE(dims.size);
    Draw draw(4);
    const auto y = draw.normals<float>(dims.size), target = draw.normals<float>(dims.target_size);
    const DeviceBuffer<float> device_y(y), device_target(target);
    const float dloss = 0.7f;
    const DeviceBuffer<float> device_dloss(std::vector<float>{dloss});
    Reference loss(1), dy(dims.size);
    for (std::int64_t i = 0; i < dims.size; ++i) {
      const double error = double(y[static_cast<std::size_t>(i)]) -
                           double(target[static_cast<std::size_t>(i % dims.target_size)]);
      loss.add(0, error * error / static_cast<double>(dims.size));
      dy.add(i, dloss * 2.0 / static_cast<double>(dims.size) * error);
    }
    DeviceBuffer<float> device_loss(1);
    run(cuda_queue(), kernels::MseForward<float>{.dims = dims,
                                                 .y = device_y.data(),
                                                 .target = device_target.data(),
                                                 .loss = device_loss.data()});
    EXPECT_TRUE(device_loss.walls_stand());
    harness::expect_near<float>("loss", device_loss.values(), loss,
                                1);  // all but the last is double
    harness::expect_same_device_bits("loss", [&] {
      run(cuda_queue(), kernels::MseForward<float>{.dims = dims,
                                                   .y = device_y.data(),
                                                   .target = device_target.data(),
                                                   .loss = device_loss.data()});
      return std::vector<float>{device_loss.value()};
    });
    // The difference, 2 dloss / size (a product and a rounded division) and the product.
    harness::expect_gradient<float, DeviceBuffer>("dy", dy, 5, [&](GradOut<float> to) {
      run(cuda_queue(), kernels::MseBackward<float>{.dims = dims,
                                                    .y = device_y.data(),
                                                    .target = device_target.data(),
                                                    .dloss = device_dloss.data(),
                                                    .dy = to});
    });
  }
  run(cuda_queue(), kernels::MseBackward<float>{.dims = {1, 1}});
}

TEST_F(CudaElementwise, MseLetsNaNThrough) {
  auto y = Draw(5).normals<float>(40000);
  y[39999] = std::numeric_limits<float>::quiet_NaN();
  const DeviceBuffer<float> device_y(y), target(std::vector<float>{1});
  DeviceBuffer<float> loss(std::vector<float>{0});
  run(cuda_queue(),
      kernels::MseForward<float>{
          .dims = {40000, 1}, .y = device_y.data(), .target = target.data(), .loss = loss.data()});
  EXPECT_TRUE(std::isnan(loss.value()));
}

}  // namespace
}  // namespace sidechannel
