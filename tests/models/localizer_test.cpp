#include "models/localizer.h"

#include <gtest/gtest.h>

#include "engine/optim/adam.h"
#include "tests/harness/localizer_check.h"

namespace sidechannel {
namespace {

using harness::check_network_gradients;
using harness::device;
using harness::Draw;
using harness::error_of;
using harness::randomize_norms;
using harness::relative_difference;
using harness::saved;
using harness::shapes_of;
using harness::tensor_of;
using harness::values_of;
using kernels::Write;

const std::vector<NormKind> kKinds = {
    NormKind::kNone,  NormKind::kInstance, NormKind::kGroup, NormKind::kGroupPopulation,
    NormKind::kLayer, NormKind::kPosition, NormKind::kRms,   NormKind::kBatch};
bool is_of_positions(NormKind kind) {
  return kind == NormKind::kPosition || kind == NormKind::kRms;
}

const std::vector<std::pair<NormKind, Padding>> kKindsAndPaddings = [] {
  std::vector<std::pair<NormKind, Padding>> all;
  for (const NormKind kind : kKinds) {
    for (const Padding padding : {Padding::kZeros, Padding::kCircular})
      all.push_back({kind, padding});
  }
  return all;
}();

LocalizerConfig config_of(NormKind norm, std::int64_t depth = 4, std::int64_t channels = 4,
                          std::int64_t kernel_size = 3) {
  return {.depth = depth,
          .channels = channels,
          .kernel_size = kernel_size,
          .norm = norm,
          .groups = 2,
          .samples_per_set = 2};
}

const Tensor& value_of(const Localizer& net, const std::string& name) {
  for (const Parameter& parameter : net.parameters().parameters()) {
    if (parameter.name == name) return parameter.value;
  }
  throw Error("no parameter " + name);
}

// Equation (1) once more, of single operations; what comes before each ReLU is kept.
struct Composition {
  Var output;
  std::vector<Var> hidden;  // z(1) ... z(d-1)
  double nearest = 1e9;     // to a ReLU's kink
};

Composition compose(Tape& tape, const Localizer& net, const Tensor& x) {
  const LocalizerConfig& config = net.config();
  const auto convolve = [&](const Var& z, const std::string& name) {
    return conv1d(
        z, tape.constant(value_of(net, name + ".weight")),
        tape.constant(value_of(net, name + ".bias")), config.kernel_size / 2,
        {config.padding == Padding::kCircular ? PaddingMode::kCircular : PaddingMode::kZeros});
  };
  Composition result;
  Var z = convolve(tape.constant(x), "conv_in");
  result.hidden.push_back(z);
  for (std::int64_t i = 0; i < config.depth - 2; ++i) {
    const std::string block = fmt::format("blocks.{}", i);
    z = convolve(z, block + ".conv");
    if (config.norm != NormKind::kNone) {
      NormOptions options;
      options.activation = kernels::Activation::kNone;
      if (config.norm == NormKind::kGroup || config.norm == NormKind::kGroupPopulation)
        options.channels_per_set = config.channels / config.groups;
      if (config.norm == NormKind::kLayer || is_of_positions(config.norm))
        options.channels_per_set = config.channels;
      if (is_of_positions(config.norm)) options.positions_per_set = 1;
      options.centred = config.norm != NormKind::kRms;
      if (config.norm == NormKind::kBatch) options.samples_per_set = config.samples_per_set;
      z = norm_act(z, tape.constant(value_of(net, block + ".norm.weight")),
                   tape.constant(value_of(net, block + ".norm.bias")), options);
    }
    for (double value : values_of(z.value()))
      result.nearest = std::min(result.nearest, std::abs(value));
    z = relu(z);
    result.hidden.push_back(z);
  }
  result.output = convolve(z, "conv_out");
  return result;
}

TEST(Localizer, IsEquationOne) {
  for (const auto& [kind, padding] : kKindsAndPaddings) {
    LocalizerConfig config = config_of(kind, 5);
    config.padding = padding;
    Localizer net(device(), DType::kF64, config, 1);
    Draw draw(2);
    randomize_norms(net, draw);
    const Tensor x = draw.tensor({4, 11, 1});
    Tape tape(device(), DType::kF64);
    std::vector<Var> hidden;
    const Var y = net(tape.constant(x), Statistics::kMinibatch, &hidden);
    const Composition expected = compose(tape, net, x);
    EXPECT_EQ(values_of(y.value()), values_of(expected.output.value())) << name_of(kind);
    ASSERT_EQ(hidden.size(), 4u);  // d - 1
    for (std::size_t i = 0; i < hidden.size(); ++i) {
      EXPECT_TRUE((hidden[i].shape() == Shape{4, 11, 4}));
      EXPECT_EQ(values_of(hidden[i].value()), values_of(expected.hidden[i].value()));
    }
  }
}

// Appendix A.
TEST(Localizer, GroupNormRecoversLayerNormAndInstanceNorm) {
  const Tensor x = Draw(2).tensor({3, 11, 1});
  const auto answers = [&](NormKind kind, std::int64_t groups) {
    LocalizerConfig config = config_of(kind, 5);
    config.groups = groups;
    Localizer net(device(), DType::kF64, config, 1);
    Draw draw(3);
    randomize_norms(net, draw);
    Tape tape(device(), DType::kF64);
    return values_of(net(tape.constant(x)).value());
  };
  EXPECT_EQ(answers(NormKind::kGroup, 1), answers(NormKind::kLayer, 1));
  EXPECT_EQ(answers(NormKind::kGroup, 4), answers(NormKind::kInstance, 1));
  EXPECT_NE(answers(NormKind::kGroup, 2), answers(NormKind::kGroup, 4));
  // In training, population group norm is group norm.
  EXPECT_EQ(answers(NormKind::kGroupPopulation, 2), answers(NormKind::kGroup, 2));
  EXPECT_NE(answers(NormKind::kRms, 1), answers(NormKind::kPosition, 1));
}

TEST(Localizer, BeginsWithUniformBiasesOrWithNone) {
  for (NormKind kind : {NormKind::kNone, NormKind::kInstance}) {
    LocalizerConfig config = config_of(kind);
    const Localizer uniform(device(), DType::kF64, config, 3);
    config.biases = InitialBiases::kZero;
    const Localizer zero(device(), DType::kF64, config, 3);
    for (const Parameter& parameter : uniform.parameters().parameters()) {
      const auto values = values_of(parameter.value);
      const auto others = values_of(value_of(zero, parameter.name));
      if (!parameter.name.ends_with(".bias") || parameter.name.ends_with("norm.bias")) {
        EXPECT_EQ(values, others) << parameter.name;
        continue;
      }
      EXPECT_EQ(others, std::vector<double>(values.size(), 0)) << parameter.name;
      for (const double value : values) EXPECT_NE(value, 0) << parameter.name;
    }
  }
}

TEST(Localizer, NamesItsTensorsAsPyTorchWould) {
  const auto names = [](NormKind kind) {
    return shapes_of(Localizer(device(), DType::kF32, config_of(kind, 4, 4, 5), 1));
  };
  std::map<std::string, std::string> expected = {
      {"conv_in.weight", "[4, 1, 5]"},       {"conv_in.bias", "[4]"},
      {"blocks.0.conv.weight", "[4, 4, 5]"}, {"blocks.0.conv.bias", "[4]"},
      {"blocks.1.conv.weight", "[4, 4, 5]"}, {"blocks.1.conv.bias", "[4]"},
      {"conv_out.weight", "[1, 4, 5]"},      {"conv_out.bias", "[1]"}};
  EXPECT_EQ(names(NormKind::kNone), expected);
  for (const char* block : {"blocks.0", "blocks.1"}) {
    expected[std::string(block) + ".norm.weight"] = "[4]";
    expected[std::string(block) + ".norm.bias"] = "[4]";
  }
  EXPECT_EQ(names(NormKind::kInstance), expected);
  EXPECT_EQ(names(NormKind::kLayer), expected);
  EXPECT_EQ(names(NormKind::kRms), expected);
  for (const char* block : {"blocks.0", "blocks.1"}) {
    expected[std::string(block) + ".norm.running_mean"] = "[4]";
    expected[std::string(block) + ".norm.running_var"] = "[4]";
  }
  EXPECT_EQ(names(NormKind::kBatch), expected);
  EXPECT_EQ(names(NormKind::kGroupPopulation), expected);
}

// R(d) = floor(k / 2) d: without normalization, or with that of each position alone, an output
// depends on these inputs and no others, to the bit; with statistics over positions on all of them.
TEST(Localizer, HearsItsReceptiveFieldOnlyWithoutStatisticsOverPositions) {
  for (NormKind kind : kKinds) {
    const bool carries = kind != NormKind::kNone && !is_of_positions(kind);
    const LocalizerConfig config = config_of(kind, 4, 4, 3);
    ASSERT_EQ(config.receptive_field(), 4);
    const Localizer net(device(), DType::kF64, config, 3);
    const std::int64_t length = 21;
    const Tensor x = Draw(4).tensor({2, length, 1});
    Tape tape(device(), DType::kF64);
    const auto predict = [&] {
      return values_of(net(tape.constant(x), Statistics::kMinibatch).value());
    };
    const auto before = predict();
    const std::int64_t moved = 10;
    x.data<double>()[moved] += 1;
    const auto after = predict();
    for (std::int64_t l = 0; l < length; ++l) {
      const auto at = static_cast<std::size_t>(l);
      const bool inside = std::abs(l - moved) <= config.receptive_field();
      EXPECT_EQ(before[at] != after[at], inside || carries) << name_of(kind) << l;
      // The other sample hears it through batch norm alone.
      const auto other = static_cast<std::size_t>(length + l);
      EXPECT_EQ(before[other] != after[other], kind == NormKind::kBatch) << name_of(kind) << l;
    }
  }
}

TEST(Localizer, Gradients) {
  Draw draw(5);
  for (const auto& [kind, padding] : kKindsAndPaddings) {
    for (std::uint64_t i = 0; i < (padding == Padding::kZeros ? 24 : 8); ++i) {
      LocalizerConfig config =
          config_of(kind, draw.integer(2, 5), draw.pick({1, 2, 3, 4, 6}), draw.pick({1, 3, 5}));
      config.padding = padding;
      // Two values of a set become -1 and 1, whatever they are: nothing passes such layers.
      if (is_of_positions(kind)) config.channels = std::max<std::int64_t>(config.channels, 3);
      config.groups = config.channels % 2 == 0 ? 2 : 1;
      config.samples_per_set = draw.integer(1, 3);
      const std::int64_t batch = config.samples_per_set * draw.integer(1, 2);
      const Shape shape{batch, draw.pick({1, 2, 3, 5, 8, 9}), 1};
      if (kind == NormKind::kGroupPopulation && config.channels / config.groups * shape[1] == 2) {
        continue;  // likewise
      }
      // Draws until no ReLU stands within 1e-3 of its kink. A difference moves its input by far
      // less, also where a set of two or three close values has been scaled up.
      std::unique_ptr<Localizer> net;
      Tensor x;
      do {
        net = std::make_unique<Localizer>(device(), DType::kF64, config,
                                          static_cast<std::uint64_t>(draw.integer(0, 1 << 30)));
        randomize_norms(*net, draw);
        x = draw.tensor(shape);
        Tape tape(device(), DType::kF64);
        const Composition composition = compose(tape, *net, x);
        if (composition.nearest > 1e-3) break;
      } while (true);

      check_network_gradients(*net, x, i, Statistics::kMinibatch,
                              std::string(name_of(kind)) + " " + shape.str());
    }
  }
}

// --- Batch norm in micro-batches ----------------------------------------------------------------

// The gradients of all parameters, one after the other.
std::vector<double> gradients_of(const Localizer& net) {
  std::vector<double> all;
  for (const Parameter& parameter : net.parameters().parameters()) {
    const auto values = values_of(parameter.grad);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

std::vector<double> running_of(const Localizer& net) {
  std::vector<double> all;
  for (const auto& [name, array] : saved(net.parameters())) {
    if (name.find("running") == std::string::npos) continue;
    all.insert(all.end(), array.as<double>().begin(), array.as<double>().end());
  }
  return all;
}

// Appendix E's batch norm: 8 accumulated batches of 4, against one batch of 32.
struct MicroBatches {
  static constexpr std::int64_t kLength = 24;
  Tensor x = Draw(6).tensor({32, kLength, 1});
  Tensor target = Draw(7).tensor({kLength});

  static Localizer make(std::int64_t samples_per_set) {
    LocalizerConfig config = config_of(NormKind::kBatch, 6, 8, 5);
    config.samples_per_set = samples_per_set;
    return Localizer(device(), DType::kF64, config, 8);
  }
  void whole(Localizer& net) const {
    Tape tape(device(), DType::kF64);
    tape.backward(mse(net(tape.constant(x)), target));
  }
  void accumulated(Localizer& net, Write write) const {
    for (Parameter& parameter : net.parameters().parameters()) parameter.grad.fill(0);
    Tape tape(device(), DType::kF64);
    for (std::int64_t i = 0; i < 8; ++i) {
      tape.reset();
      const Tensor part = x.slice(i * 4 * kLength, 4 * kLength).reshape({4, kLength, 1});
      tape.backward(mse(net(tape.constant(part)), target), tensor_of({1.0 / 8}, {1}), write);
    }
  }
};

TEST(Localizer, AccumulatedMicroBatchesAreOneBatchWithStatisticsInGroups) {
  const MicroBatches batches;
  Localizer one = MicroBatches::make(4);
  batches.whole(one);
  Localizer eight = MicroBatches::make(4);
  batches.accumulated(eight, Write::kAccumulate);
  EXPECT_LE(relative_difference(gradients_of(eight), gradients_of(one)), 1e-12);
  EXPECT_LE(relative_difference(running_of(eight), running_of(one)), 1e-12);

  // Known-wrong variants: statistics over all 32 samples, and the last micro-batch alone.
  Localizer plain = MicroBatches::make(32);
  batches.whole(plain);
  EXPECT_GT(relative_difference(gradients_of(plain), gradients_of(one)), 0.05);
  Localizer last = MicroBatches::make(4);
  batches.accumulated(last, Write::kOverwrite);
  EXPECT_GT(relative_difference(gradients_of(last), gradients_of(one)), 0.05);
}

// Evaluation with minibatch statistics: a group's predictions do not depend on the other groups.
TEST(Localizer, GroupsOfABatchDoNotHearEachOther) {
  const MicroBatches batches;
  const Localizer net = MicroBatches::make(4);
  Tape tape(device(), DType::kF64);
  const auto together = values_of(net(tape.constant(batches.x), Statistics::kMinibatch).value());
  const Tensor third = batches.x.slice(8 * 24, 4 * 24).reshape({4, 24, 1});
  const auto alone = values_of(net(tape.constant(third), Statistics::kMinibatch).value());
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + 8 * 24));
}

// With population statistics each sample stands alone, and far inputs are not heard.
TEST(Localizer, PopulationStatisticsMixNothing) {
  for (const NormKind kind : {NormKind::kBatch, NormKind::kGroupPopulation}) {
    LocalizerConfig config = config_of(kind, 6, 8, 5);
    config.samples_per_set = 4;
    Localizer net(device(), DType::kF64, config, 8);
    const MicroBatches batches;
    batches.whole(net);  // moves the running statistics
    Tape tape(device(), DType::kF64);
    const auto predict = [&] {
      return values_of(net(tape.constant(batches.x), Statistics::kPopulation).value());
    };
    const auto before = predict();
    batches.x.data<double>()[0] += 1;
    const auto after = predict();
    const std::int64_t reach = net.config().receptive_field();
    for (std::size_t i = 0; i < before.size(); ++i) {
      if (i > static_cast<std::size_t>(reach)) {
        ASSERT_EQ(before[i], after[i]) << name_of(kind) << i;
      }
    }
    EXPECT_NE(before[0], after[0]);
  }
}

// --- Training -----------------------------------------------------------------------------------

TEST(Localizer, TrainsToTheSameBitsWithAnyNumberOfThreads) {
  for (NormKind kind : {NormKind::kInstance, NormKind::kBatch, NormKind::kLayer,
                        NormKind::kPosition, NormKind::kRms, NormKind::kGroupPopulation}) {
    TensorMap first;
    for (int threads : {1, 2, 3, 2}) {
      Localizer net(harness::device(threads), DType::kF32, config_of(kind, 4, 16, 5), 9);
      Adam adam(net.parameters(), {LearningRate{1e-3}});
      Random random(harness::device(threads), 9);
      Tape tape(harness::device(threads));
      const Tensor target = Tensor::zeros(harness::device(threads), DType::kF32, {70});
      for (std::int64_t l = 0; l < 70; ++l) target.data<float>()[l] = static_cast<float>(l) / 70;
      for (int step = 0; step < 5; ++step) {
        tape.reset();
        const Var x = tape.normal({6, 70, 1}, Stream::kNoise, random);
        tape.backward(mse(net(x), target));
        adam.step();
        random.advance(1);
      }
      const TensorMap tensors = saved(net.parameters());
      if (first.empty()) first = tensors;
      for (const auto& [name, array] : tensors)
        EXPECT_EQ(array.bytes, first.at(name).bytes) << name;
    }
  }
}

// --- Configurations -----------------------------------------------------------------------------

TEST(LocalizerConfig, RefusesWhatCannotBeBuilt) {
  const auto error = [](auto change) {
    LocalizerConfig config;
    change(config);
    return error_of([&] { Localizer(device(), DType::kF32, config, 0); });
  };
  EXPECT_EQ(error([](auto&) {}), "no error");
  EXPECT_EQ(error([](auto& c) { c.kernel_size = 4; }), "kernel size 4: expected an odd number");
  EXPECT_EQ(error([](auto& c) { c.kernel_size = -1; }), "kernel size -1: expected an odd number");
  EXPECT_EQ(error([](auto& c) { c.depth = 1; }), "depth 1: expected at least 2 convolutions");
  EXPECT_EQ(error([](auto& c) { c.channels = 0; }), "channels 0: expected at least 1");
  EXPECT_EQ(error([](auto& c) { c.norm = NormKind::kGroup, c.groups = 5; }),
            "groups 5: expected a divisor of the 32 channels");
  EXPECT_EQ(error([](auto& c) { c.norm = NormKind::kGroup, c.groups = 0; }),
            "groups 0: expected a divisor of the 32 channels");
  EXPECT_EQ(error([](auto& c) { c.norm = NormKind::kGroupPopulation, c.groups = 5; }),
            "groups 5: expected a divisor of the 32 channels");
  EXPECT_EQ(error([](auto& c) { c.norm = NormKind::kBatch, c.samples_per_set = 0; }),
            "samples per set 0: expected at least 1");
}

TEST(LocalizerConfig, PaddingsAreNamed) {
  for (const char* name : padding_names()) EXPECT_EQ(name_of(padding_from(name)), name);
  EXPECT_EQ(error_of([] { padding_from("none"); }), "padding none: expected zeros or circular");
}

TEST(LocalizerConfig, NormsAreNamed) {
  for (NormKind kind : kKinds) EXPECT_EQ(norm_kind_from(name_of(kind)), kind);
  EXPECT_EQ(
      error_of([] { norm_kind_from("bath"); }),
      "norm bath: expected none, instance, group, group_population, layer, position, rms or batch");
  EXPECT_EQ(error_of([] { norm_kind_from("bath\n\x1b[31m"); }),
            "norm \"bath\\x0a\\x1b[31m\": expected none, instance, group, group_population, layer, "
            "position, rms or batch");
}

}  // namespace
}  // namespace sidechannel
