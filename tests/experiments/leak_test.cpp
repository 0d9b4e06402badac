#include "experiments/leak/measure.h"

#include <gtest/gtest.h>

#include <cmath>

#include "models/localizer.h"
#include "models/temporal_unet.h"
#include "tests/harness/backends.h"

// That the meter reads what there is: exact zeros where nothing can be heard, shares that agree
// with a Jacobian by differences, and norms that carry it all.

namespace sidechannel::experiments {
namespace {

using harness::Draw;
using harness::values_of;

LocalizerConfig config_of(NormKind norm, std::int64_t depth = 4) {
  return {.depth = depth,
          .channels = 8,
          .kernel_size = 3,
          .norm = norm,
          .groups = 2,
          .samples_per_set = 2};
}

std::vector<Tensor> noise(const Device& device, DType dtype, Shape shape, int count = 1) {
  Draw draw(5);
  std::vector<Tensor> all;
  for (int i = 0; i < count; ++i) {
    all.push_back(
        Tensor::from(device, harness::array_of(values_of(draw.tensor(shape)), dtype, shape)));
  }
  return all;
}

double l1(const Json& share) {
  return share["l1"].get<double>();
}

// What every report must say of a network that cannot leak, or one that does.
void expect_report(const Network& network, const std::vector<Tensor>& inputs, bool leaks,
                   bool layers) {
  LeakOptions options;
  options.asked = evenly_spaced(inputs[0].shape()[1], 2);
  options.layers = layers;
  const Json report = measure_leak(network, inputs, options);
  SCOPED_TRACE(report["network"].get<std::string>());
  EXPECT_EQ(l1(report["frozen"]), 0);  // to the bit
  EXPECT_EQ(report["frozen"]["squared"].get<double>(), 0);
  EXPECT_EQ(report["leaks"].get<bool>(), leaks);
  EXPECT_LT(report["receptive_field"]["inside"].get<double>(), 1);
  for (const char* part : {"live", "mean", "variance"})
    EXPECT_EQ(l1(report[part]) > 0, leaks) << part;
  for (const Json& layer : report["layers"]) {
    EXPECT_EQ(l1(layer["alone"]) > 0, leaks) << layer["name"];
  }
}

// Small: the emulator runs each kernel in three orders.
constexpr std::int64_t kLength = 24;

BACKEND_TEST(Leak, IsExactlyZeroWhereNothingCanBeHeard) {
  Backend::for_devices([](const Device& given, DType dtype) {
    const Device device = given.is_cuda() ? given : Device::cpu(2, ConvGradients::kDirect);
    for (const auto& [norm, leaks] : std::map<NormKind, bool>{{NormKind::kNone, false},
                                                              {NormKind::kPosition, false},
                                                              {NormKind::kRms, false},
                                                              {NormKind::kInstance, true},
                                                              {NormKind::kGroup, true},
                                                              {NormKind::kLayer, true},
                                                              {NormKind::kBatch, true}}) {
      const Localizer network(device, dtype, config_of(norm), 1);
      const std::int64_t samples = norm == NormKind::kBatch ? 2 : 1;
      if (norm == NormKind::kRms) {
        // It has no means; what its variances carry is nothing.
        LeakOptions options;
        options.asked = {20};
        EXPECT_EQ(l1(measure_leak(network, noise(device, dtype, {1, kLength, 1}), options)["live"]),
                  0);
        continue;
      }
      expect_report(network, noise(device, dtype, {samples, kLength, 1}), leaks, true);
    }
    for (const auto& [norm, leaks] : std::map<NormKind, bool>{
             {NormKind::kNone, false}, {NormKind::kPosition, false}, {NormKind::kGroup, true}}) {
      const TemporalUnet network(device, dtype,
                                 {.transition = 2,
                                  .dim = 8,
                                  .multipliers = {1, 2},
                                  .kernel_size = 3,
                                  .steps = 1,
                                  .norm = norm,
                                  .groups = 2},
                                 1);
      expect_report(network, noise(device, dtype, {1, 64, 2}), leaks, false);
    }
  });
}

// By differences of the network itself.
TEST(Leak, IsTheShareOfTheJacobianOutside) {
  const Device device = Device::cpu(1);
  const Localizer network(device, DType::kF64, config_of(NormKind::kInstance, 3), 2);
  const Tensor x = noise(device, DType::kF64, {1, 20, 1})[0];
  constexpr std::int64_t kAsked = 9, kReach = 3;
  const auto answer = [&](std::int64_t at, double by) {
    std::vector<double> values = values_of(x);
    values[static_cast<std::size_t>(at)] += by;
    Tape tape(device, DType::kF64);
    const Tensor moved = harness::tensor_of(values, {1, 20, 1});
    return values_of(network(tape.constant(moved), Statistics::kMinibatch).value())[kAsked];
  };
  double outside = 0, all = 0, later = 0;
  for (std::int64_t i = 0; i < 20; ++i) {
    const double slope = std::abs(answer(i, 1e-5) - answer(i, -1e-5)) / 2e-5;
    all += slope;
    if (std::abs(i - kAsked) > kReach) outside += slope;
    if (i > kAsked) later += slope;
  }
  LeakOptions options;
  options.asked = {kAsked};
  options.causal = true;
  const Json report = measure_leak(network, std::vector{x}, options);
  EXPECT_NEAR(l1(report["live"]), outside / all, 1e-6);
  EXPECT_NEAR(l1(report["future"]["live"]), later / all, 1e-6);
  EXPECT_GT(outside / all, 0.01);
  // Of the one norm that there is: with it held nothing is heard, it alone carries all of it.
  ASSERT_EQ(report["layers"].size(), 1u);
  const Json& layer = report["layers"][0];
  EXPECT_EQ(layer["name"], "blocks.0.norm");
  EXPECT_EQ(layer["kind"], "instance");
  EXPECT_EQ(l1(layer["without"]), 0);
  EXPECT_EQ(layer["alone"], report["live"]);
  EXPECT_EQ(layer["mean"], report["mean"]);
  EXPECT_EQ(layer["variance"], report["variance"]);
  EXPECT_EQ(layer["difference"], report["difference"]);
}

// A field that is one position too small is heard through: the zeros are no accident.
TEST(Leak, AFieldThatIsTooSmallShows) {
  class Smaller : public Localizer {
   public:
    using Localizer::Localizer;
    ReceptiveField receptive_field(std::int64_t length) const override {
      return ReceptiveField(length).conv1d(5, 2, 1, false);  // 2 instead of 3 to each side
    }
  };
  const Device device = Device::cpu(1);
  const Smaller network(device, DType::kF64, config_of(NormKind::kNone, 3), 2);
  LeakOptions options;
  options.asked = {9};
  EXPECT_GT(l1(measure_leak(network, noise(device, DType::kF64, {1, 20, 1}), options)["frozen"]),
            0);
}

// Sums run over inputs: of two of them it is neither's own.
TEST(Leak, InputsAreSummed) {
  const Device device = Device::cpu(1);
  const Localizer network(device, DType::kF64, config_of(NormKind::kInstance), 2);
  const std::vector<Tensor> inputs = noise(device, DType::kF64, {1, 30, 1}, 2);
  LeakOptions options;
  options.asked = {15};
  options.layers = false;
  const auto live = [&](const std::vector<Tensor>& of) {
    return l1(measure_leak(network, of, options)["live"]);
  };
  const double both = live(inputs), first = live({inputs[0]}), second = live({inputs[1]});
  EXPECT_GT(both, std::min(first, second));
  EXPECT_LT(both, std::max(first, second));
}

TEST(Leak, ReachIsThatOfTheLayers) {
  const Device device = Device::cpu(1);
  const Localizer network(device, DType::kF32, config_of(NormKind::kInstance, 6), 2);
  EXPECT_EQ(network.reach().left, 6);
  EXPECT_EQ(network.reach().right, 6);
  const TemporalUnet unet(device, DType::kF32, {}, 0);
  EXPECT_EQ(unet.reach().left, 147);
  EXPECT_EQ(unet.reach().right, 144);
  const Localizer packed(device, DType::kF32, LocalizerConfig::packed(4, 8, 3), 0);
  EXPECT_EQ(packed.reach().left, 4);
}

TEST(Leak, PositionsAreEvenlySpaced) {
  EXPECT_EQ(evenly_spaced(10, 2), (std::vector<std::int64_t>{2, 7}));
  EXPECT_EQ(evenly_spaced(3, 16), (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_EQ(evenly_spaced(1, 1), (std::vector<std::int64_t>{0}));
}

// Without a norm tiles with a halo as wide as the field are seamless, and what padding does ends at
// its distance; with one, all that is left is the norm's.
TEST(Leak, TilesAndPaddingAreTheNormsOrTheEdges) {
  const Device device = Device::cpu(1);
  const Tensor x = noise(device, DType::kF64, {1, 60, 1})[0];
  const auto part = [](const Json& report, const char* name) { return report[name].get<double>(); };
  constexpr double kRounding = 1e-12;
  for (const NormKind norm : {NormKind::kNone, NormKind::kInstance}) {
    const Localizer network(device, DType::kF64, config_of(norm), 2);
    const double leaks = norm == NormKind::kInstance ? 1 : 0;
    const Json seamless = measure_tiles(network, x, 20, 4);
    EXPECT_LE(part(seamless, "padding"), kRounding);
    EXPECT_EQ(part(seamless, "norm") > kRounding, leaks > 0);
    EXPECT_EQ(part(seamless, "total") > kRounding, leaks > 0);
    const Json seams = measure_tiles(network, x, 20, 0);
    EXPECT_GT(part(seams, "padding"), 0.01);
    const Json whole = measure_tiles(network, x, 60, 0);
    EXPECT_LE(part(whole, "total"), kRounding);
    const Json padded = measure_padding(network, x, 30);
    EXPECT_LE(part(padded, "padding"), norm == NormKind::kNone ? 1.0 : 10.0);
    EXPECT_EQ(part(padded, "norm") > kRounding, leaks > 0);
    EXPECT_LE(part(measure_padding(network, x, 0), "norm"), kRounding);
  }
}

// What is not finite is named: neither a share nor a difference of it would be one.
TEST(Leak, NothingThatIsNotFiniteIsMeasured) {
  const Device device = Device::cpu(1);
  Localizer network(device, DType::kF32, config_of(NormKind::kNone), 2);
  const Tensor x = noise(device, DType::kF32, {1, 20, 1})[0];
  const auto message = [&](const auto& measure) { return harness::error_of(measure); };
  EXPECT_EQ(message([&] { measure_tiles(network, x, 10, 0); }), "no error");
  for (Parameter& parameter : network.parameters().parameters()) {
    if (parameter.name.ends_with("bias")) parameter.value.fill(3e38);
    if (parameter.name.ends_with("weight")) parameter.value.fill(1);
  }
  const std::string words = "localizer of depth 4, 8 channels, none norm: ";
  EXPECT_EQ(message([&] { measure_tiles(network, x, 10, 0); }),
            words + "the answer is inf at [0, 0, 0]");
  EXPECT_EQ(message([&] { measure_padding(network, x, 4); }),
            words + "the answer is inf at [0, 0, 0]");
  LeakOptions options;
  options.asked = {9};
  EXPECT_EQ(message([&] { measure_leak(network, std::vector{x}, options); }),
            words + "blocks.0.conv gave inf at [0, 0, 0]");
}

}  // namespace
}  // namespace sidechannel::experiments
