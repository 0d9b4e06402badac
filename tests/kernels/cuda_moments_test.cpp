#include "kernels/moments.h"

#include <gtest/gtest.h>

#include "kernels/reduce.h"
#include "tests/harness/cuda_check.h"

namespace sidechannel {
namespace {

using harness::cuda_queue;
using harness::DeviceBuffer;
using harness::Draw;

class CudaMoments : public harness::CudaTest {};

struct Case {
  std::int64_t samples, length;
};

// Streams three batches into the CPU's kernel and this one. Both sum in double, in other orders.
void check_stream(const Case& c) {
  SCOPED_TRACE(testing::Message() << c.samples << " x " << c.length);
  Draw draw(6);
  const auto length = static_cast<std::size_t>(c.length);
  std::vector<double> mean(length), m2(length);
  std::int64_t count = 0;
  DeviceBuffer<double> device_mean(mean), device_m2(m2);
  DeviceBuffer<std::int64_t> device_count(std::vector<std::int64_t>{0});
  for (int batch = 0; batch < 3; ++batch) {
    const auto x = draw.normals<float>(c.samples * c.length, 100, 2);
    const DeviceBuffer<float> device_x(x);
    run(harness::queue(), kernels::MomentsUpdate<float>{.samples = c.samples,
                                                        .length = c.length,
                                                        .x = x.data(),
                                                        .count = &count,
                                                        .mean = mean.data(),
                                                        .m2 = m2.data()});
    run(cuda_queue(), kernels::MomentsUpdate<float>{.samples = c.samples,
                                                    .length = c.length,
                                                    .x = device_x.data(),
                                                    .count = device_count.data(),
                                                    .mean = device_mean.data(),
                                                    .m2 = device_m2.data()});
    cuda_queue().synchronize();
  }
  EXPECT_TRUE(device_mean.walls_stand() && device_m2.walls_stand() && device_count.walls_stand());
  EXPECT_EQ(device_count.value(), count);
  EXPECT_EQ(count, 3 * c.samples);
  // Twice the error of sums of so many terms, whose values are below 110 and squares below 200; the
  // squares are of deviations from means that are off by that much.
  const double bound = 2 * harness::gamma_of<double>(3 * c.samples + 20);
  const auto means = device_mean.values(), m2s = device_m2.values();
  for (std::size_t l = 0; l < length; ++l) {
    ASSERT_NEAR(means[l], mean[l], bound * 110) << l;
    ASSERT_NEAR(m2s[l], m2[l], bound * 200 * 110 * static_cast<double>(count)) << l;
  }
}

// A window's loss, a probe each, the noise of a batch; one block of positions, exactly and one
// more; fewer samples than warps, as many, and one more.
TEST_F(CudaMoments, StreamsAsTheCpu) {
  for (const Case& c : {Case{1, 1}, {1, 31}, {7, 32}, {8, 33}, {9, 64}, {32, 600}, {3, 0}}) {
    check_stream(c);
  }
}

TEST_F(CudaMoments, NoSamplesAreNothing) {
  DeviceBuffer<std::int64_t> count(std::vector<std::int64_t>{5});
  run(cuda_queue(),
      kernels::MomentsUpdate<float>{.samples = 0, .length = 3, .count = count.data()});
  EXPECT_EQ(count.value(), 5);
}

TEST_F(CudaMoments, HaltedMeansNothingMoves) {
  for (const std::int64_t length :
       {1, 70}) {  // the count in the same launch, and in one of its own
    const DeviceBuffer<float> x(Draw(1).normals<float>(4 * length));
    const std::vector<double> before(static_cast<std::size_t>(length), 2.5);
    DeviceBuffer<double> mean(before), m2(before);
    DeviceBuffer<std::int64_t> count(std::vector<std::int64_t>{5});
    for (const std::int64_t halted : {1, 0}) {
      const DeviceBuffer<std::int64_t> device_halted(std::vector<std::int64_t>{halted});
      run(cuda_queue(), kernels::MomentsUpdate<float>{.samples = 4,
                                                      .length = length,
                                                      .x = x.data(),
                                                      .halted = device_halted.data(),
                                                      .count = count.data(),
                                                      .mean = mean.data(),
                                                      .m2 = m2.data()});
      EXPECT_EQ(count.value(), halted == 1 ? 5 : 9);
      EXPECT_EQ(mean.values()[0] == 2.5, halted == 1);
      EXPECT_EQ(m2.values()[0] == 2.5, halted == 1);
    }
  }
}

class CudaReduce : public harness::CudaTest {};

// Nothing; one block's range and one more; a model's parameters.
TEST_F(CudaReduce, SumOfSquaresAgreesWithTheDefinition) {
  for (const std::int64_t size : {0, 1, 31, 4096, 32768, 32769, 200001}) {
    SCOPED_TRACE(size);
    const auto x = Draw(2).normals<float>(size);
    double expected = 0;
    for (const float value : x) expected += double(value) * double(value);
    const DeviceBuffer<float> device_x(x);
    DeviceBuffer<double> result(1);
    run(cuda_queue(),
        kernels::SumOfSquares<float>{.size = size, .x = device_x.data(), .result = result.data()});
    EXPECT_TRUE(result.walls_stand());
    const double first = result.value();
    EXPECT_NEAR(first, expected, 2 * harness::gamma_of<double>(size) * expected);
    for (int i = 0; i < 2; ++i) {
      run(cuda_queue(), kernels::SumOfSquares<float>{
                            .size = size, .x = device_x.data(), .result = result.data()});
      const double again = result.value();
      EXPECT_EQ(std::memcmp(&again, &first, sizeof first), 0);
    }
  }
}

TEST_F(CudaReduce, SumOfSquaresIsNotFiniteWhereAnElementIsNot) {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    std::vector<float> x(40000, 1);
    x[39999] = static_cast<float>(bad);
    const DeviceBuffer<float> device_x(x);
    DeviceBuffer<double> result(std::vector<double>{0});
    run(cuda_queue(),
        kernels::SumOfSquares<float>{.size = 40000, .x = device_x.data(), .result = result.data()});
    EXPECT_FALSE(std::isfinite(result.value()));
  }
}

}  // namespace
}  // namespace sidechannel
