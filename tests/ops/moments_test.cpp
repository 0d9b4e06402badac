#include "kernels/moments.h"

#include <gtest/gtest.h>

#include <cstring>

#include "engine/moments.h"
#include "tests/harness/backends.h"

namespace sidechannel {
namespace {

using harness::Draw;
using harness::error_of;
using harness::Walled;

// Mean and sum of squared deviations of everything, in two passes over extended precision.
struct Exact {
  std::vector<double> mean, m2, deviation;  // deviation: the standard one
};

template <class T>
Exact two_pass(const std::vector<T>& x, std::int64_t length) {
  Exact exact;
  const std::size_t samples = x.size() / static_cast<std::size_t>(length);
  for (std::size_t l = 0; l < static_cast<std::size_t>(length); ++l) {
    long double sum = 0;
    for (std::size_t n = 0; n < samples; ++n) sum += x[n * static_cast<std::size_t>(length) + l];
    const long double mean = sum / static_cast<long double>(samples);
    long double m2 = 0;
    for (std::size_t n = 0; n < samples; ++n) {
      const long double d = x[n * static_cast<std::size_t>(length) + l] - mean;
      m2 += d * d;
    }
    exact.mean.push_back(static_cast<double>(mean));
    exact.m2.push_back(static_cast<double>(m2));
    exact.deviation.push_back(std::sqrt(static_cast<double>(m2) / static_cast<double>(samples)));
  }
  return exact;
}

// Merges x in batches of the given sizes. A mean of n values of size M is off by e <= g(n) M, of a
// batch as of all; m2 sums n squares (a relative error of g(n), each deviation being off by e) and
// merges terms (difference of two means)^2 count, each mean off by e:
//   |m2 error| <= g(2n) m2 + 4 n e deviation + 4 n e^2
template <class T>
void check_merged(const std::vector<T>& x, std::int64_t length,
                  const std::vector<std::int64_t>& batches, int threads) {
  Walled<double> mean(std::vector<double>(static_cast<std::size_t>(length)));
  Walled<double> m2 = mean;
  std::int64_t count = 0;
  std::int64_t total = 0;
  kernels::MomentsUpdate<T> call{
      .length = length, .count = &count, .mean = mean.data(), .m2 = m2.data()};
  for (std::int64_t samples : batches) {
    call.samples = samples;
    call.x = x.data() + count * length;
    run(harness::queue(threads), call);
    ASSERT_EQ(count, total += samples);
  }
  ASSERT_EQ(count * length, static_cast<std::int64_t>(x.size()));
  EXPECT_TRUE(mean.walls_stand() && m2.walls_stand());
  const Exact exact = two_pass(x, length);
  const auto n = static_cast<double>(count);
  for (std::size_t l = 0; l < exact.mean.size(); ++l) {
    const double size = std::abs(exact.mean[l]) + exact.deviation[l];
    const double e = harness::gamma_of<double>(count + 4) * size;
    ASSERT_NEAR(mean.values()[l], exact.mean[l], e) << l;
    ASSERT_NEAR(m2.values()[l], exact.m2[l],
                harness::gamma_of<double>(2 * count + 10) * exact.m2[l] +
                    4 * n * e * exact.deviation[l] + 4 * n * e * e)
        << l;
  }
}

TEST(Moments, MergedBatchesAgreeWithTwoPassesOverEverything) {
  for (std::int64_t length : {1, 5, 16, 37, 100}) {
    const auto x = Draw(1).normals<float>(101 * length, 0.3, 2);
    for (int threads : {1, 2, 3}) {
      check_merged(x, length, {101}, threads);
      check_merged(x, length, {1, 99, 1}, threads);
      check_merged(x, length, {0, 40, 0, 61}, threads);
      check_merged(x, length, {7, 13, 2, 30, 49}, threads);
      check_merged(x, length, std::vector<std::int64_t>(101, 1), threads);
    }
  }
  check_merged(Draw(2).normals<double>(64 * 9), 9, {10, 54}, 2);
}

// Mean 1e6 and deviation 1e-3: squares of 1e12 have a spacing of 1e-4, the variance is 1e-6. The
// bound above allows a relative error of 1e-5; E[x^2] - mean^2 does not even find its size.
TEST(Moments, StayAccurateFarFromZero) {
  const auto x = Draw(3).normals<double>(500 * 3, 1e6, 1e-3);
  check_merged(x, 3, {500}, 1);
  check_merged(x, 3, {100, 1, 399}, 1);
  check_merged(x, 3, std::vector<std::int64_t>(500, 1), 1);
  double sum = 0, squares = 0;
  for (std::size_t n = 0; n < 500; ++n) {
    sum += x[3 * n] / 500;
    squares += x[3 * n] * x[3 * n] / 500;
  }
  const double exact = two_pass(x, 3).m2[0] / 500;
  EXPECT_GT(std::abs((squares - sum * sum) / exact - 1), 0.5);
}

TEST(Moments, OfAConstantHaveNoVarianceAtAll) {
  const std::vector<float> x(60, 0.1f);
  std::vector<double> mean(3), m2(3);
  std::int64_t count = 0;
  for (std::int64_t samples : {7, 1, 12}) {
    run(harness::queue(), kernels::MomentsUpdate<float>{.samples = samples,
                                                        .length = 3,
                                                        .x = x.data(),
                                                        .count = &count,
                                                        .mean = mean.data(),
                                                        .m2 = m2.data()});
  }
  for (std::size_t l = 0; l < 3; ++l) {
    EXPECT_NEAR(mean[l], double(0.1f), 1e-16);
    EXPECT_LE(m2[l], 1e-30);
  }
}

TEST(Moments, SameBitsWithAnyNumberOfThreads) {
  const auto x = Draw(4).normals<float>(50 * 203);
  harness::OnCpu::expect_same_bits("moments", [&](kernels::CpuQueue& queue) {
    std::vector<double> mean(203), m2(203);
    std::int64_t count = 0;
    for (std::int64_t samples : {20, 30}) {
      run(queue, kernels::MomentsUpdate<float>{.samples = samples,
                                               .length = 203,
                                               .x = x.data() + count * 203,
                                               .count = &count,
                                               .mean = mean.data(),
                                               .m2 = m2.data()});
    }
    std::vector<float> bits(4 * 203);
    std::memcpy(bits.data(), mean.data(), 203 * sizeof(double));
    std::memcpy(bits.data() + 2 * 203, m2.data(), 203 * sizeof(double));
    return bits;
  });
}

// Also a count that is written before all positions have read it: positions would disagree.
TEST(Moments, CountSamplesForAllPositionsAlike) {
  const std::int64_t length = 203;
  const std::vector<float> x(7 * length, 2.5f);
  for (int threads : {1, 3}) {
    std::vector<double> mean(length, -1), m2(length, 6);
    std::int64_t count = 3;
    run(harness::queue(threads), kernels::MomentsUpdate<float>{.samples = 7,
                                                               .length = length,
                                                               .x = x.data(),
                                                               .count = &count,
                                                               .mean = mean.data(),
                                                               .m2 = m2.data()});
    EXPECT_EQ(count, 10);
    for (std::size_t l = 0; l < length; ++l) {
      EXPECT_NEAR(mean[l], 0.3 * -1 + 0.7 * 2.5, 1e-15);
      EXPECT_NEAR(m2[l], 6 + 3.5 * 3.5 * 2.1, 1e-13);
    }
  }
}

TEST(Moments, NothingIsAddedOnceHalted) {
  const auto x = Draw(6).normals<float>(5 * 3);
  std::vector<double> mean(3, 1), m2(3, 2);
  std::int64_t count = 4;
  const std::int64_t halted = 1;
  run(harness::queue(), kernels::MomentsUpdate<float>{.samples = 5,
                                                      .length = 3,
                                                      .x = x.data(),
                                                      .halted = &halted,
                                                      .count = &count,
                                                      .mean = mean.data(),
                                                      .m2 = m2.data()});
  EXPECT_EQ(count, 4);
  EXPECT_EQ(mean, std::vector<double>(3, 1));
  EXPECT_EQ(m2, std::vector<double>(3, 2));
  const std::int64_t running = 0;
  run(harness::queue(), kernels::MomentsUpdate<float>{.samples = 5,
                                                      .length = 3,
                                                      .x = x.data(),
                                                      .halted = &running,
                                                      .count = &count,
                                                      .mean = mean.data(),
                                                      .m2 = m2.data()});
  EXPECT_EQ(count, 9);
}

TEST(StreamingMoments, GiveTheUnbiasedVariance) {
  const auto x = Draw(5).normals<float>(30 * 4, 1, 3);
  StreamingMoments moments(harness::device(), 4);
  const auto batch = [&](std::size_t first, std::int64_t samples, Shape shape) {
    return Tensor::from(
        harness::device(),
        HostArray::from<float>(
            std::span(x).subspan(first * 4, static_cast<std::size_t>(samples * 4)), shape));
  };
  moments.add(batch(0, 1, {1, 4}));
  EXPECT_EQ(moments.variance().as<double>()[0], 0);  // of a single sample
  moments.add(batch(1, 20, {20, 4, 1}));
  moments.add(batch(21, 9, {9, 4}));
  EXPECT_EQ(moments.count(), 30);
  const Exact exact = two_pass(x, 4);
  for (std::size_t l = 0; l < 4; ++l) {
    EXPECT_NEAR(moments.mean().as<double>()[l], exact.mean[l], 1e-14);
    EXPECT_NEAR(moments.variance().as<double>()[l], exact.m2[l] / 29, 1e-13);
  }
  // A state that is put back goes on to the same bits.
  std::map<std::string, HostArray> saved;
  moments.save(saved, "layer");
  StreamingMoments again(harness::device(), 4);
  again.load(saved, "state", "layer", 30);
  moments.add(batch(3, 5, {5, 4}));
  again.add(batch(3, 5, {5, 4}));
  EXPECT_EQ(again.variance().bytes, moments.variance().bytes);
  EXPECT_EQ(again.mean().bytes, moments.mean().bytes);
  EXPECT_EQ(again.count(), 35);
  moments.clear();
  EXPECT_EQ(moments.count(), 0);
  EXPECT_EQ(moments.mean().as<double>()[0], 0);
  EXPECT_EQ(error_of([&] {
              moments.add(batch(0, 5, {4, 5}));
            }),
            "moments: expected samples of 4 positions, got [4, 5]");
  EXPECT_EQ(error_of([&] { moments.add(batch(0, 1, {4})); }),
            "moments: expected samples of 4 positions, got [4]");
}

TEST(StreamingMoments, RefuseAStateThatIsNotTheirs) {
  StreamingMoments moments(harness::device(), 4);
  std::map<std::string, HostArray> saved;
  moments.save(saved, "window");
  const auto load = [&](auto change) {
    auto tensors = saved;
    change(tensors);
    return error_of([&] { moments.load(tensors, "run/checkpoint", "window", 0); });
  };
  EXPECT_EQ(load([](auto&) {}), "no error");
  for (const char* name : {"window.mean", "window.m2", "window.count"}) {
    EXPECT_EQ(load([&](auto& t) { t.erase(name); }),
              fmt::format("run/checkpoint: has no tensor {}", name));
  }
  EXPECT_EQ(load([](auto& t) { t["window.mean"] = HostArray(DType::kF64, {5}); }),
            "run/checkpoint: window.mean is f64 [5], expected f64 [4]");
  EXPECT_EQ(load([](auto& t) { t["window.count"] = HostArray(DType::kI64, {1}); }),
            "run/checkpoint: window.count is i64 [1], expected i64 []");
  for (const std::int64_t count : {std::int64_t{-1}, std::int64_t{1}, std::int64_t{1} << 62}) {
    EXPECT_EQ(load([&](auto& t) { t["window.count"] = scalar(count); }),
              fmt::format("run/checkpoint: window.count is {}, expected 0", count));
  }
  EXPECT_EQ(load([](auto& t) { t["window.m2"].template as<double>()[2] = -0.5; }),
            "run/checkpoint: tensor window.m2 holds -0.5, expected at least 0");
}

}  // namespace
}  // namespace sidechannel
