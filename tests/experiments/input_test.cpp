#include "experiments/localization/input.h"

#include <gtest/gtest.h>

#include <Eigen/Dense>

#include "experiments/localization/settings.h"
#include "tests/harness/backends.h"

// What networks hear: noise, and inputs in which places are less and less unique.

namespace sidechannel::experiments {
namespace {

using harness::error_of;

constexpr std::int64_t kSamples = 40, kLength = 24;
using Sequences = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// Sequences from sample `first` on of a step, [kSamples, kLength].
Sequences drawn(const Device& device, const InputOptions& input, std::uint32_t step = 0,
                std::uint32_t first = 0) {
  const InputSource source(device, input, kSamples, kLength, Stream::kNoise);
  Random random(device, 7);
  random.seek(step, first);
  Tape tape(device);
  const Var x = source(tape, random, kSamples);
  EXPECT_TRUE((x.shape() == Shape{kSamples, kLength, 1}));
  EXPECT_FALSE(x.requires_grad());
  const std::vector<double> values = harness::values_of(x.value());
  return Eigen::Map<const Sequences>(values.data(), kSamples, kLength);
}

Sequences noise(const Device& device, std::int64_t length) {
  Tape tape(device);
  const Random random(device, 7);
  const auto values =
      harness::values_of(tape.normal({kSamples, length, 1}, Stream::kNoise, random).value());
  return Eigen::Map<const Sequences>(values.data(), kSamples, length);
}

std::int64_t rank_of(const Sequences& x) {
  Eigen::JacobiSVD<Eigen::MatrixXd> svd(x);
  svd.setThreshold(1e-3);  // above what fp32 and TF32 round
  return svd.rank();
}

void check_inputs(const Device& device) {
  // As they always were, to the bit.
  EXPECT_EQ(drawn(device, {}), noise(device, kLength));
  EXPECT_EQ(drawn(device, {.kind = "constant"}), Sequences::Ones(kSamples, kLength));

  for (const std::int64_t period : {1, 2, 5, 12, 23, 24, 100}) {
    SCOPED_TRACE(period);
    const InputOptions input{.kind = "periodic", .period = period};
    const Sequences x = drawn(device, input);
    const Sequences pattern = noise(device, std::min(period, kLength));
    for (std::int64_t i = 0; i < kLength; ++i) EXPECT_EQ(x.col(i), pattern.col(i % period));
    EXPECT_EQ(rank_of(x), std::min(period, kLength));
  }

  for (const std::int64_t rank : {1, 2, 3, 4, 7, 12, 24}) {
    SCOPED_TRACE(rank);
    const InputOptions input{.kind = "low-rank", .rank = rank};
    EXPECT_EQ(rank_of(drawn(device, input)), rank);
    // Where a sequence stands does not show: covariances depend on the distance alone.
    const HostArray array = low_rank_basis(kLength, rank);
    const Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> u(
        array.as<float>().data(), kLength, rank);
    const Eigen::MatrixXd covariance = u.cast<double>() * u.cast<double>().transpose();
    for (std::int64_t i = 0; i < kLength; ++i) {
      EXPECT_NEAR(covariance(i, i), 1, 1e-5);
      for (std::int64_t j = 0; i + j < kLength; ++j) {
        EXPECT_NEAR(covariance(i, i + j), covariance(0, j), 1e-5);
      }
    }
  }
  // Of one wave of frequency 0, a level.
  const Sequences level = drawn(device, {.kind = "low-rank", .rank = 1});
  for (std::int64_t i = 1; i < kLength; ++i) EXPECT_EQ(level.col(i), level.col(0));

  // Fresh in every step and for every sample; the same wherever a batch begins.
  for (const InputOptions& input : {InputOptions{.kind = "periodic", .period = 5},
                                    InputOptions{.kind = "low-rank", .rank = 6}}) {
    SCOPED_TRACE(input.kind);
    const Sequences x = drawn(device, input);
    EXPECT_EQ(drawn(device, input), x);
    EXPECT_GT((drawn(device, input, 1) - x).norm(), 0.5 * x.norm());
    EXPECT_GT((x.row(1) - x.row(0)).norm(), 0.1 * x.row(0).norm());
    EXPECT_EQ(drawn(device, input, 0, 3).topRows(kSamples - 3), x.bottomRows(kSamples - 3));
  }
}

BACKEND_TEST(Input, IsWhatItsNameSays) {
  Backend::for_devices([](const Device& device, DType dtype) {
    if (dtype == DType::kF32) check_inputs(device);
  });
}

TEST(Input, FrequenciesHaveNoCommonPeriod) {
  const HostArray basis = low_rank_basis(2000, 8);
  const auto u = basis.as<float>();
  // At no distance does a sequence come back, as a periodic one does after its period.
  for (std::int64_t i = 1; i < 2000; ++i) {
    double correlation = 0;
    for (std::size_t j = 0; j < 8; ++j) {
      correlation += double(u[j]) * double(u[static_cast<std::size_t>(i) * 8 + j]);
    }
    ASSERT_LT(correlation, 0.99) << i;
  }
}

TEST(Input, RefusesWhatItIsNot) {
  const auto error = [](const InputOptions& input) {
    return error_of([&] { InputSource(harness::device(), input, 2, 8, Stream::kNoise); });
  };
  EXPECT_EQ(error({.kind = "noise"}), "no error");
  EXPECT_EQ(error({.kind = "pink"}), "input pink: expected noise, constant, periodic or low-rank");
  EXPECT_EQ(error({.kind = "periodic"}), "period 0: expected at least 1");
  EXPECT_EQ(error({.kind = "low-rank"}), "rank 0: expected at least 1");
}

TEST(Input, SettingsThatDoNotFit) {
  const auto error = [](const Json& given) {
    LocalizationSettings settings;
    return error_of([&] {
      apply(given, "", settings);
      check_effects(given, settings);
      settings.check();
    });
  };
  EXPECT_EQ(error({{"input", "periodic"}, {"period", 8}}), "no error");
  EXPECT_EQ(error({{"input", "low-rank"}, {"rank", 64}}), "no error");
  EXPECT_EQ(error({{"period", 8}}), "--period 8: has no effect without --input periodic");
  EXPECT_EQ(error({{"input", "periodic"}, {"rank", 8}}),
            "--rank 8: has no effect without --input low-rank");
  EXPECT_EQ(error({{"input", "periodic"}, {"period", 65}}),
            "--period 65: expected at most --length 64");
  EXPECT_EQ(error({{"input", "low-rank"}, {"rank", 65}}),
            "--rank 65: expected at most --length 64");
  EXPECT_EQ(error({{"input", "low-rank"}, {"rank", 0}}),
            "--rank 0: expected a whole number from 1 to 1000");
}

}  // namespace
}  // namespace sidechannel::experiments
