#include "kernels/random.h"

#include <gtest/gtest.h>

#include "tests/harness/cuda_check.h"

namespace sidechannel {
namespace {

using harness::cuda_queue;
using harness::DeviceBuffer;
using kernels::RandomPosition;
using kernels::RandomStream;

class CudaRandom : public harness::CudaTest {};

void expect_same_bits(std::span<const float> device, const std::vector<float>& cpu) {
  ASSERT_EQ(device.size(), cpu.size());
  ASSERT_EQ(std::memcmp(device.data(), cpu.data(), cpu.size() * sizeof(float)), 0);
}

void check_normals(std::int64_t samples, std::int64_t length, const RandomStream& random,
                   const RandomPosition& position) {
  SCOPED_TRACE(testing::Message() << samples << " x " << length);
  std::vector<float> expected(static_cast<std::size_t>(samples * length));
  run(harness::queue(), kernels::NormalFill<float>{.random = random,
                                                   .at = &position,
                                                   .samples = samples,
                                                   .length = length,
                                                   .out = expected.data()});
  const DeviceBuffer<RandomPosition> at(std::vector<RandomPosition>{position});
  DeviceBuffer<float> out(samples * length);
  run(cuda_queue(), kernels::NormalFill<float>{.random = random,
                                               .at = at.data(),
                                               .samples = samples,
                                               .length = length,
                                               .out = out.data()});
  EXPECT_TRUE(out.walls_stand());
  expect_same_bits(out.values(), expected);
}

// Lengths that do and do not fill a counter's four numbers, several blocks of threads, and counters
// near the ends of their ranges, which wrap around.
TEST_F(CudaRandom, NormalsHaveTheCpusBits) {
  const RandomStream random{0x123456789abcdef0, 3};
  for (const std::int64_t length : {1, 2, 3, 4, 5, 64, 129, 600}) {
    check_normals(5, length, random, {17, 1000});
    const DeviceBuffer<float>::Misaligned misaligned;
    check_normals(3, length, random, {17, 1000});
  }
  check_normals(32, 600, {~std::uint64_t{0}, ~0u}, {~0u, ~0u - 7});
  check_normals(1, 40000, {0, 0}, {0, 0});
}

// Every path of the logarithm and of the quarter turns: a million numbers.
TEST_F(CudaRandom, AMillionNormalsHaveTheCpusBits) {
  check_normals(64, 16384, {42, 1}, {0, 0});
}

TEST_F(CudaRandom, UniformsHaveTheCpusBits) {
  for (const std::int64_t size : {1, 3, 4, 5, 1024, 1025, 4097}) {
    std::vector<float> expected(static_cast<std::size_t>(size));
    run(harness::queue(),
        kernels::UniformFill<float>{
            .random = {7, 2}, .step = 5, .bound = 0.125, .size = size, .out = expected.data()});
    DeviceBuffer<float> out(size);
    run(cuda_queue(),
        kernels::UniformFill<float>{
            .random = {7, 2}, .step = 5, .bound = 0.125, .size = size, .out = out.data()});
    EXPECT_TRUE(out.walls_stand());
    expect_same_bits(out.values(), expected);
  }
}

TEST_F(CudaRandom, AdvancesCounterByCounter) {
  DeviceBuffer<RandomPosition> at(std::vector<RandomPosition>{{~0u, 10}});
  run(cuda_queue(), kernels::RandomAdvance{.at = at.data(), .by = {2, 32}});
  EXPECT_TRUE(at.walls_stand());
  EXPECT_EQ(at.value().step, 1u);
  EXPECT_EQ(at.value().first_sample, 42u);
}

}  // namespace
}  // namespace sidechannel
