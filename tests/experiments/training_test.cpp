#include "experiments/training.h"

#include <gtest/gtest.h>

#include <cmath>

namespace sidechannel::experiments {
namespace {

HostArray line(std::int64_t length, double slope, double offset) {
  HostArray mean(DType::kF64, {length});
  const HostArray target = target_positions(length);
  for (std::int64_t i = 0; i < length; ++i) {
    const auto at = static_cast<std::size_t>(i);
    mean.as<double>()[at] = slope * static_cast<double>(target.as<float>()[at]) + offset;
  }
  return mean;
}

TEST(Target, RunsFromMinusAHalfToAHalf) {
  const HostArray target = target_positions(5);
  const auto values = target.as<float>();
  EXPECT_EQ(std::vector<float>(values.begin(), values.end()),
            (std::vector<float>{-0.5f, -0.25f, 0.0f, 0.25f, 0.5f}));
  EXPECT_EQ(target_positions(1).as<float>()[0], 0.0f);
}

TEST(InteriorSlope, FindsTheSlopeWhateverTheOffset) {
  for (const std::int64_t length : {9, 10, 64}) {
    EXPECT_NEAR(interior_slope(line(length, 0.75, 0.3), 2), 0.75, 1e-6);
  }
}

TEST(InteriorSlope, DoesNotLookAtTheEdges) {
  HostArray mean = line(20, 0, 0);
  mean.as<double>()[4] = 1;  // outside [5, 15)
  mean.as<double>()[15] = -1;
  EXPECT_EQ(interior_slope(mean, 5), 0);
  mean.as<double>()[14] = 1;
  EXPECT_GT(interior_slope(mean, 5), 0);
}

TEST(InteriorSlope, IsNoNumberWithoutAnInterior) {
  EXPECT_TRUE(std::isnan(interior_slope(line(8, 1, 0), 4)));
  EXPECT_TRUE(std::isnan(interior_slope(line(9, 1, 0), 4)));
  EXPECT_FALSE(std::isnan(interior_slope(line(10, 1, 0), 4)));
}

TEST(Plateau, IsToldInWordsWithARetry) {
  LocalizationSettings settings = settings_from_preset<LocalizationSettings>("demo", "instance");
  settings.seed = 4;
  const std::string notice = plateau_notice(settings, 0.0001, 0.001);
  EXPECT_NE(notice.find("plateau"), std::string::npos);
  EXPECT_NE(notice.find("--seed 5"), std::string::npos);
  EXPECT_NE(notice.find("--learning-rate 0.001"), std::string::npos);
  EXPECT_EQ(plateau_notice(settings, 0.5, 0.04), "");  // it learned
  EXPECT_EQ(plateau_notice(settings, 0.0, 0.05), "");  // not yet, but it moves
  settings.input = "constant";                         // where slope 0 is what must come out
  EXPECT_EQ(plateau_notice(settings, 0.0, 0.001), "");
  settings.input = "noise";
  settings.norm = "none";  // where slope 0 is what must come out
  EXPECT_EQ(plateau_notice(settings, 0.0, 0.001), "");
}

LocalizationStep demo_step(Localizer& network) {
  return {network, LearningRate{2e-3}, 8, 64, 1};
}

TEST(TrainingStep, IsTheSameForAnyNumberOfThreads) {
  const LocalizationSettings settings =
      settings_from_preset<LocalizationSettings>("demo", "instance");
  std::vector<HostArray> first;
  for (const int threads : {1, 2, 3}) {
    const Device device = Device::cpu(threads);
    Localizer network(device, DType::kF32, settings.network(), 1);
    LocalizationStep step = demo_step(network);
    std::vector<HostArray> state;
    for (int i = 0; i < 10; ++i) step();
    EXPECT_EQ(step.adam().steps(), 10);
    for (const Parameter& p : network.parameters().parameters()) state.push_back(p.value.to_host());
    if (first.empty()) first = state;
    for (std::size_t i = 0; i < state.size(); ++i) EXPECT_EQ(state[i].bytes, first[i].bytes);
  }
}

TEST(TrainingStep, ReusesItsMemoryFromTheSecondStepOn) {
  const LocalizationSettings settings =
      settings_from_preset<LocalizationSettings>("demo", "instance");
  Localizer network(Device::cpu(1), DType::kF32, settings.network(), 1);
  LocalizationStep step = demo_step(network);
  step();
  step();
  const std::size_t bytes = step.arena_bytes();
  const auto* predictions = step.predictions().data<float>();
  for (int i = 2; i < 5; ++i) {
    step();
    EXPECT_EQ(step.arena_bytes(), bytes);
    EXPECT_EQ(step.predictions().data<float>(), predictions);
  }
}

TEST(TrainingStep, ThePaperScaleStepStaysUnderAGigabyte) {
  const LocalizationSettings settings =
      settings_from_preset<LocalizationSettings>("paper", "instance");
  Localizer network(Device::cpu(), DType::kF32, settings.network(), 1);
  LocalizationStep step(network, settings.training_rate(), settings.batch, settings.length, 1);
  step();
  step();
  EXPECT_LE(step.arena_bytes(), 1'000'000'000u);
}

}  // namespace
}  // namespace sidechannel::experiments
