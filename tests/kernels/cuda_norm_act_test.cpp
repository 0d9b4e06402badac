#include "kernels/norm_act.h"

#include <gtest/gtest.h>

#include "tests/harness/backends.h"
#include "tests/harness/norm_check.h"

namespace sidechannel {
namespace {

using harness::check_norm_backward;
using harness::check_norm_forward;
using harness::check_population;
using harness::cuda_queue;
using harness::DeviceBuffer;
using harness::Draw;
using harness::narrowed;
using harness::NormCase;
using kernels::NormDims;
using enum kernels::Activation;

using NormBuffers = harness::NormBuffers<float, DeviceBuffer>;

class CudaNormRelu : public harness::CudaTest {};

constexpr double kEpsilon = 1e-5;

// Beside the shapes of all backends, the edges of this one's tiles.
std::vector<NormDims> shapes() {
  std::vector<NormDims> all = harness::norm_dims(60);
  for (const NormDims& dims : harness::large_norm_dims()) all.push_back(dims);
  for (const NormDims& dims : {
           NormDims{2, 600, 64, 1, 1, kEpsilon, kRelu},  // W1's layers, two samples of them
           {2, 64, 32, 1, 1, kEpsilon, kRelu},           // the demo's
           {3, 127, 8, 1, 1, kEpsilon, kRelu},           // a warp's rows but one
           {1, 129, 8, 1, 1, kEpsilon, kRelu},   // one more position than fits a warp's rows
           {2, 257, 12, 3, 1, kEpsilon, kRelu},  // sets that are no power of two, a tile part empty
           {1, 300, 36, 9, 1, kEpsilon, kRelu},  // sets across the packs of four channels
           {1, 150, 132, 4, 1, kEpsilon, kRelu},  // more channels than a tile's 128, in whole sets
           {1, 150, 132, 132, 1, kEpsilon, kRelu},  // a set wider than any tile: in chunks
           {1, 2050, 8, 1, 1, kEpsilon, kRelu},     // too long for columns of 32 bytes backward
           {1, 4097, 8, 1, 1, kEpsilon, kRelu},     // the same forward; in chunks backward
           {1, 8193, 4, 1, 1, kEpsilon, kRelu},     // one more position than any block holds
           {1, 600, 64, 64, 1, kEpsilon, kRelu},    // LayerNorm of W1: in chunks
           {8, 250, 64, 1, 4, kEpsilon, kRelu},     // W5: BatchNorm in groups of 4
           {8, 600, 32, 1, 8, kEpsilon, kRelu},     // BatchNorm of a whole batch: in chunks
           {4, 301, 32, 4, 2, kEpsilon, kNone},     // channels and samples
       }) {
    all.push_back(dims);
  }
  return all;
}

TEST_F(CudaNormRelu, KernelsAgreeWithTheDefinition) {
  std::uint64_t seed = 0;
  for (const NormDims& dims : shapes()) {
    const NormCase c = harness::make_norm_case<float>(dims, ++seed);
    SCOPED_TRACE(c.text());
    check_norm_forward<float, DeviceBuffer>(cuda_queue(), c);
    check_norm_backward<float, DeviceBuffer>(cuda_queue(), c);
    if (HasFatalFailure()) return;
  }
}

TEST_F(CudaNormRelu, BuffersNeedNoAlignment) {
  const DeviceBuffer<float>::Misaligned misaligned;
  for (const NormDims& dims :
       {NormDims{2, 70, 32, 1, 1, kEpsilon, kRelu}, NormDims{2, 300, 64, 64, 1, kEpsilon, kRelu}}) {
    const NormCase c = harness::make_norm_case<float>(dims, 3);
    SCOPED_TRACE(c.text());
    check_norm_forward<float, DeviceBuffer>(cuda_queue(), c);
    check_norm_backward<float, DeviceBuffer>(cuda_queue(), c);
    check_population<float, DeviceBuffer>(cuda_queue(), harness::make_population<float>(dims, 3));
  }
}

TEST_F(CudaNormRelu, PopulationKernelsAgreeWithTheDefinition) {
  std::uint64_t seed = 0;
  for (const NormDims& dims : shapes()) {
    check_population<float, DeviceBuffer>(cuda_queue(),
                                          harness::make_population<float>(dims, ++seed));
    if (HasFatalFailure()) return;
  }
}

// One launch where a block holds the sets, three where it does not: what the shapes above rely on.
TEST_F(CudaNormRelu, LargeSetsGoInChunks) {
  const auto launches = [](const NormDims& dims, bool backward) {
    const std::vector<double> x = Draw(1).normals<double>(dims.size());
    const std::vector<double> ones(static_cast<std::size_t>(dims.channels), 1);
    NormBuffers b(NormCase{dims, x, ones, ones, x});
    const std::int64_t before = cuda_queue().counters().launches;
    run(cuda_queue(), b.forward());
    const std::int64_t between = cuda_queue().counters().launches;
    kernels::NormBackward<float> call = b.backward();
    call.dgamma = call.dbeta = {};
    run(cuda_queue(), call);
    return backward ? cuda_queue().counters().launches - between : between - before;
  };
  EXPECT_EQ(launches({2, 600, 64, 1, 1, kEpsilon, kRelu}, false), 1);
  EXPECT_EQ(launches({2, 600, 64, 1, 1, kEpsilon, kRelu}, true), 1);
  EXPECT_EQ(launches({1, 4097, 8, 1, 1, kEpsilon, kRelu}, false), 1);
  EXPECT_EQ(launches({1, 4097, 8, 1, 1, kEpsilon, kRelu}, true), 3);
  EXPECT_EQ(launches({1, 8193, 4, 1, 1, kEpsilon, kRelu}, false), 3);
  EXPECT_EQ(launches({1, 600, 64, 64, 1, kEpsilon, kRelu}, false), 3);
  EXPECT_EQ(launches({1, 600, 64, 64, 1, kEpsilon, kRelu}, true), 3);
}

// As on the CPU: see NormStatistics.StayAccurateFarFromZero.
TEST_F(CudaNormRelu, StatisticsStayAccurateFarFromZero) {
  for (const NormDims& dims :
       {NormDims{2, 600, 3, 1, 1, kEpsilon, kNone}, NormDims{2, 600, 64, 64, 1, kEpsilon, kNone},
        NormDims{4, 150, 5, 1, 4, kEpsilon, kNone}, NormDims{1, 9000, 4, 1, 1, kEpsilon, kNone}}) {
    const std::vector<double> ones(static_cast<std::size_t>(dims.channels), 1);
    NormCase c{dims, {}, ones, std::vector<double>(ones.size()), {}};
    for (float x : Draw(1).normals<float>(dims.batch * dims.length * dims.channels, 4096, 1.25)) {
      c.x.push_back(x);
    }
    SCOPED_TRACE(c.text());
    const harness::SetStatistics s = harness::statistics_of(c);
    NormBuffers b(c);
    run(cuda_queue(), b.forward());
    const auto mean_values = b.mean.values(), rstd_values = b.rstd.values();
    for (std::size_t i = 0; i < s.mean.size(); ++i) {
      // Two units in the last place of 4096 for the mean; in the variance, its square.
      EXPECT_NEAR(mean_values[i], s.mean[i], 2 * 4096 * std::numeric_limits<float>::epsilon());
      const double variance = 1 / (double(rstd_values[i]) * double(rstd_values[i])) - kEpsilon;
      EXPECT_NEAR(variance / s.variance[i], 1, 1e-5);
    }
  }
}

// Sums of chunks are corrected for the rounding of their means, so the mean of a large set is off
// by its own rounding to float alone, and a constant has no variance, however far from zero it
// lies. Half a unit in the last place, and some of double's; of the variance, double's of the mean
// squared.
TEST_F(CudaNormRelu, LargeSetsRoundOnce) {
  for (const NormDims& dims :
       {NormDims{1, 9001, 4, 1, 1, kEpsilon, kNone}, NormDims{3, 3001, 4, 1, 3, kEpsilon, kNone},
        NormDims{1, 700, 64, 64, 1, kEpsilon, kNone}}) {
    for (const double deviation : {0.0, 1.25}) {
      const std::vector<double> ones(static_cast<std::size_t>(dims.channels), 1);
      NormCase c{dims, {}, ones, ones, {}};
      for (const float x :
           Draw(1).normals<float>(dims.batch * dims.length * dims.channels, 4096.3, deviation)) {
        c.x.push_back(x);
      }
      SCOPED_TRACE(c.text());
      const harness::SetStatistics s = harness::statistics_of(c);
      NormBuffers b(c);
      run(cuda_queue(), b.forward());
      const auto mean_values = b.mean.values(), rstd_values = b.rstd.values();
      const double u = harness::kUnitRoundoff<float>;
      for (std::size_t i = 0; i < s.mean.size(); ++i) {
        ASSERT_NEAR(mean_values[i], s.mean[i], s.mean[i] * u * (1 + 1e-3));
        if (deviation == 0) {
          ASSERT_NEAR(rstd_values[i] * std::sqrt(kEpsilon), 1, 1e-5);
        }
      }
    }
  }
}

// Where the value before the ReLU is exactly 0, no gradient passes, as in PyTorch: gamma and beta
// 0. Whole sets, chunks, a population.
TEST_F(CudaNormRelu, NothingPassesAtTheKink) {
  for (const NormDims& dims :
       {NormDims{2, 37, 8, 1, 1, kEpsilon, kRelu}, NormDims{1, 600, 64, 64, 1, kEpsilon, kRelu}}) {
    SCOPED_TRACE(dims.length);
    const std::vector<double> zeros(static_cast<std::size_t>(dims.channels), 0);
    NormBuffers b(NormCase{dims, Draw(1).normals<double>(dims.size()), zeros, zeros,
                           Draw(2).normals<double>(dims.size())});
    const auto expect_zeros = [&] {
      for (const auto* part : {&b.dx, &b.dgamma, &b.dbeta}) {
        for (const float value : part->values()) ASSERT_EQ(value, 0);
      }
    };
    run(cuda_queue(), b.forward());
    run(cuda_queue(), b.backward());
    expect_zeros();
    const DeviceBuffer<float> ones(std::vector<float>(zeros.size(), 1));
    run(cuda_queue(), kernels::NormPopulationBackward<float>{.dims = dims,
                                                             .x = b.x.data(),
                                                             .gamma = b.gamma.data(),
                                                             .beta = b.beta.data(),
                                                             .mean = ones.data(),
                                                             .variance = ones.data(),
                                                             .dy = b.dy.data(),
                                                             .dx = {b.dx.data()},
                                                             .dbeta = {b.dbeta.data()},
                                                             .dgamma = {b.dgamma.data()}});
    expect_zeros();
  }
}

TEST_F(CudaNormRelu, SameBitsInEveryRun) {
  for (const NormDims& dims : harness::large_norm_dims()) {
    const NormCase c = harness::make_norm_case<float>(dims, 5);
    NormBuffers b(c);
    harness::OnCuda::expect_same_bits(c.text(), [&](auto&) {
      run(cuda_queue(), b.forward());
      run(cuda_queue(), b.backward());
      std::vector<float> all;
      for (const auto* part : {&b.y, &b.mean, &b.rstd, &b.dx, &b.dgamma, &b.dbeta}) {
        const auto values = part->values();
        all.insert(all.end(), values.begin(), values.end());
      }
      return all;
    });
  }
}

// A value that is not a number spoils its set, and nothing else; whole sets and chunks.
TEST_F(CudaNormRelu, LetsNaNThrough) {
  for (const std::int64_t length : {9, 9000}) {
    for (const kernels::Activation activation : {kNone, kRelu}) {
      const NormDims dims{1, length, 20, 1, 1, kEpsilon, activation};
      auto values = Draw(1).normals<double>(length * 20);
      values[3 * 20 + 6] = std::numeric_limits<float>::quiet_NaN();
      NormBuffers b(
          NormCase{dims, values, std::vector<double>(20, 1), std::vector<double>(20, -0.1), {}});
      run(cuda_queue(), b.forward());
      const auto y_values = b.y.values();
      for (std::size_t i = 0; i < y_values.size(); ++i) {
        ASSERT_EQ(std::isnan(y_values[i]), i % 20 == 6) << i;
      }
    }
  }
}

// Running averages follow the CPU's, which are tested against a direct computation.
TEST_F(CudaNormRelu, RunningAveragesAreTheCpus) {
  for (const NormDims& dims :
       {NormDims{4, 30, 7, 1, 1, kEpsilon, kRelu}, NormDims{6, 21, 3, 1, 2, kEpsilon, kRelu},
        NormDims{8, 5, 65, 1, 4, kEpsilon, kRelu}, NormDims{2, 1, 1, 1, 1, kEpsilon, kRelu}}) {
    const std::int64_t sets = dims.groups() * dims.channels;
    Draw draw(9);
    const auto mean = draw.normals<float>(sets, 3, 2);
    const auto rest = draw.normals<float>(sets, 0, 1e-7);
    auto rstd = draw.normals<float>(sets, 1, 0.1);
    rstd[0] = 1 / std::sqrt(1e-5f);  // a variance of zero, or a little less by rounding
    DeviceBuffer<float> device_mean(mean), device_rest(rest), device_rstd(rstd);
    std::vector<double> running_mean(static_cast<std::size_t>(dims.channels), 0.5),
        running_variance(running_mean.size(), 2);
    DeviceBuffer<float> device_running_mean(narrowed<float>(running_mean)),
        device_running_variance(narrowed<float>(running_variance));
    run(harness::queue(),
        kernels::NormUpdateRunning<double>{
            .dims = dims,
            .momentum = 0.3,
            .statistics = {harness::widened(mean).data(), harness::widened(rest).data(),
                           harness::widened(rstd).data()},
            .running_mean = running_mean.data(),
            .running_variance = running_variance.data()});
    run(cuda_queue(),
        kernels::NormUpdateRunning<float>{
            .dims = dims,
            .momentum = 0.3,
            .statistics = {device_mean.data(), device_rest.data(), device_rstd.data()},
            .running_mean = device_running_mean.data(),
            .running_variance = device_running_variance.data()});
    EXPECT_TRUE(device_running_mean.walls_stand() && device_running_variance.walls_stand());
    const auto means = device_running_mean.values(), variances = device_running_variance.values();
    for (std::size_t c = 0; c < running_mean.size(); ++c) {
      EXPECT_FLOAT_EQ(means[c], static_cast<float>(running_mean[c]));
      EXPECT_FLOAT_EQ(variances[c], static_cast<float>(running_variance[c]));
    }
  }
}

}  // namespace
}  // namespace sidechannel
