#include "experiments/localization/training.h"

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

// The demo: answering the mean position everywhere has a loss of 0.0860, R = 16 of 64.
class TrainingNotice : public testing::Test {
 protected:
  std::string of(double loss, double slope) const {
    return training_notice(settings_, loss, slope);
  }
  LocalizationSettings settings_ = settings_from_preset<LocalizationSettings>("demo", "instance");
};

TEST_F(TrainingNotice, SaysWhatToTryNext) {
  settings_.seed = 4;
  EXPECT_EQ(of(0.0861, 0.0001),
            "this run learned nothing: loss 0.08610, where answering the mean position everywhere "
            "has 0.08598; try another seed (--seed 5) or a lower rate (--learning-rate 0.001)");
  EXPECT_EQ(of(0.02, -0.002),
            "this run learned nothing of what lies beyond its receptive field: interior slope "
            "-0.002; try another seed (--seed 5) or a lower rate (--learning-rate 0.001)");
}

TEST_F(TrainingNotice, ALossOfAnyMagnitudeIsAFewDigits) {
  EXPECT_TRUE(of(9.0000000329865346e76, 0).starts_with("this run learned nothing: loss 9e+76, "));
  EXPECT_NE(of(0.02, -3.7904107041722777e+27).find("interior slope -3.79e+27; "),
            std::string::npos);
}

// As a state keeps the slope that there is none of.
TEST_F(TrainingNotice, WithoutAnInteriorNoSlopeIsAskedFor) {
  settings_.length = 33;
  EXPECT_EQ(of(0.02, 0), "");
  settings_.length = 34;
  EXPECT_NE(of(0.02, 0), "");
}

TEST_F(TrainingNotice, EveryShapeOfFailureIsTold) {
  for (const char* norm : {"instance", "group", "group_population", "layer", "batch"}) {
    settings_.norm = norm;
    EXPECT_NE(of(0.0860, 0.000), "") << "the plateau: the mean position everywhere";
    EXPECT_NE(of(0.0858, 0.300), "") << "the plateau with a slope out of noise";
    EXPECT_NE(of(0.1300, 0.500), "") << "a loss that rose";
    EXPECT_NE(of(5e8, -3.0), "") << "divergence";
    EXPECT_NE(of(0.0110, 0.010), "") << "edges alone";
    EXPECT_NE(of(0.0110, -0.40), "") << "edges alone, the rest the wrong way round";
    EXPECT_EQ(of(0.0110, 0.800), "") << "what the demo ends with";
    EXPECT_EQ(of(0.0500, 0.300), "") << "on its way";
  }
  // Without an interior there is no slope, but a loss.
  settings_.depth = 16;
  EXPECT_EQ(of(0.01, std::nan("")), "");
  EXPECT_NE(of(0.09, std::nan("")), "");
}

TEST_F(TrainingNotice, OfThoseThatHearNothingTheEdgesAreAskedForAlone) {
  // Their best is 0.0100, the mean answer beyond R: they gain 0.076 at most.
  for (const auto& [norm, input] : {std::pair{"none", "noise"},
                                    {"instance", "constant"},
                                    {"none", "constant"},
                                    {"position", "noise"},
                                    {"rms", "noise"}}) {
    settings_.norm = norm;
    settings_.input = input;
    EXPECT_EQ(of(0.0105, 0.000), "");
    EXPECT_EQ(of(0.0400, -0.01), "");
    EXPECT_NE(of(0.0859, 0.000), "") << "ReLUs that died: a constant answer";
    EXPECT_NE(of(0.2000, 0.000), "");
  }
  // Edges that are few still count for what they are.
  settings_.norm = "none";
  settings_.kernel_size = 3;
  settings_.depth = 2;
  settings_.length = 600;
  EXPECT_EQ(of(0.0825, 0.000), "");
  // Kernels of one position see no edge: there is nothing to learn.
  settings_.kernel_size = 1;
  EXPECT_EQ(of(0.0836, 0.000), "");
  settings_.norm = "instance";
  EXPECT_EQ(of(0.0836, 0.000), "");
}

// A ring has no edges: nothing tells one position from another.
TEST_F(TrainingNotice, OfRingsNothingIsAsked) {
  settings_.padding = "circular";
  for (const char* norm : {"none", "instance", "batch"}) {
    settings_.norm = norm;
    EXPECT_EQ(of(0.0860, 0.000), "");
  }
}

// The network of a preset, with InstanceNorm.
Localizer network_of(const char* preset, const Device& device) {
  return {device, DType::kF32,
          settings_from_preset<LocalizationSettings>(preset, "instance").localizer(), 1};
}

LocalizationStep demo_step(Localizer& network) {
  return {network, LearningRate{2e-3}, 8, 64, 1};
}

TEST(TrainingStep, IsTheSameForAnyNumberOfThreads) {
  std::vector<HostArray> first;
  for (const int threads : {1, 2, 3}) {
    const Device device = Device::cpu(threads);
    Localizer network = network_of("demo", device);
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
  Localizer network = network_of("demo", Device::cpu(1));
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
  Localizer network = network_of("paper", Device::cpu());
  LocalizationStep step(network, settings.training_rate(), settings.batch, settings.length, 1);
  step();
  step();
  EXPECT_LE(step.arena_bytes(), 1'000'000'000u);
}

}  // namespace
}  // namespace sidechannel::experiments
