#include "models/temporal_unet.h"

#include <gtest/gtest.h>

#include "engine/io/safetensors.h"
#include "models/model_file.h"
#include "models/unet_file.h"
#include "tests/harness/backends.h"
#include "tests/harness/program.h"

// Against PyTorch: tests/engine/pytorch_test.cpp.

namespace sidechannel {
namespace {

using harness::device;
using harness::Draw;
using harness::error_of;
using harness::relative_difference;
using harness::saved;
using harness::values_of;

TemporalUnetConfig tiny(NormKind norm, std::vector<std::int64_t> multipliers = {1, 2}) {
  return {.transition = 2,
          .dim = 4,
          .multipliers = std::move(multipliers),
          .kernel_size = 3,
          .steps = 9,
          .norm = norm,
          .groups = 2};
}

// Away from where gamma and beta begin.
void randomize_norms(TemporalUnet& net, Draw& draw) {
  for (Parameter& parameter : net.parameters().parameters()) {
    if (parameter.name.find(".block.2.") == std::string::npos) continue;
    const double mean = parameter.name.ends_with("weight") ? 1 : 0;
    const auto values = draw.normals<double>(parameter.value.size(), mean, 0.3);
    parameter.value.copy_from(HostArray::from<double>(values, parameter.value.shape()));
  }
}

// Published: maze2d-large, 3.68 million parameters, hearing 147 positions to the left and 144 to
// the right.
TEST(TemporalUnet, HasThePublishedSizeAndReach) {
  const TemporalUnet net(device(), DType::kF32, {}, 0);
  EXPECT_NEAR(static_cast<double>(net.parameters().size()), 3.68e6, 0.005e6);
  const ReceptiveField field = net.receptive_field(1024);
  ASSERT_EQ(field.length(), 1024);
  std::int64_t left = 0, right = 0;
  for (std::int64_t i = 256; i < 768; ++i) {
    left = std::max(left, i - field[i].first);
    right = std::max(right, field[i].last - i);
    // Equivariant to shifts by the stride alone.
    EXPECT_EQ(field[i].first + 4, field[i + 4].first);
  }
  EXPECT_EQ(left, 147);
  EXPECT_EQ(right, 144);
  EXPECT_NE(field[512].first + 1, field[513].first);
  // Pairs inside, at the horizons where it does not cover everything.
  const auto inside = [&](std::int64_t length) {
    const ReceptiveField of = net.receptive_field(length);
    double pairs = 0;
    for (std::int64_t o = 0; o < length; ++o) {
      for (std::int64_t i = 0; i < length; ++i) pairs += of.holds(o, i);
    }
    return pairs / static_cast<double>(length * length);
  };
  EXPECT_EQ(inside(128), 1);
  EXPECT_NEAR(inside(256), 0.81, 0.005);
  EXPECT_NEAR(inside(384), 0.61, 0.005);
}

TEST(TemporalUnet, Gradients) {
  std::uint64_t seed = 0;
  for (const NormKind norm : {NormKind::kGroup, NormKind::kNone, NormKind::kPosition,
                              NormKind::kRms, NormKind::kGroupPopulation}) {
    for (const Statistics statistics : {Statistics::kMinibatch, Statistics::kPopulation}) {
      TemporalUnet net(device(), DType::kF64, tiny(norm), ++seed);
      if (statistics == Statistics::kPopulation && !net.config().has_population_statistics()) {
        continue;
      }
      Draw draw(seed);
      randomize_norms(net, draw);
      const Tensor x = draw.tensor({2, 8, 2}), steps = harness::tensor_of({3, 8}, {2});
      const GradientCheckOptions options{.seed = seed, .max_elements = 12};
      harness::expect_gradients(
          [&](Tape& tape) { return net(tape.constant(x), tape.constant(steps), statistics); },
          net.parameters(), options, name_of(norm));
      harness::expect_gradients(
          [&](Tape& tape, std::span<const Var> in) {
            return net(in[0], tape.constant(steps), statistics);
          },
          std::vector{x}, options, name_of(norm));
    }
  }
}

// Each trajectory is answered at its own step.
TEST(TemporalUnet, StepsAreThoseOfTheirTrajectories) {
  TemporalUnet net(device(), DType::kF64, tiny(NormKind::kGroup), 1);
  const Tensor x = Draw(1).tensor({2, 8, 2});
  Tape tape(device(), DType::kF64);
  const auto answers = [&](std::vector<double> steps) {
    return values_of(
        net(tape.constant(x), tape.constant(harness::tensor_of(steps, {2})), Statistics::kMinibatch)
            .value());
  };
  const std::vector<double> mixed = answers({2, 7}), first = answers({2, 2}),
                            last = answers({7, 7});
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(mixed[i], first[i]);
    EXPECT_EQ(mixed[16 + i], last[16 + i]);
    EXPECT_NE(first[i], last[i]);
  }
  net.set_step(7);
  EXPECT_EQ(values_of(net(tape.constant(x), Statistics::kMinibatch).value()), last);
}

// Proposition C.1, per phase: without a norm an input that is shifted by the stride gives an
// interior that is, to the bit; by one position it does not.
BACKEND_TEST(TemporalUnet, ShiftsByItsStridePassThrough) {
  Backend::for_devices([](const Device& device, DType dtype) {
    TemporalUnet net(device, dtype, tiny(NormKind::kNone), 1);
    constexpr std::int64_t kLength = 96;
    const std::vector<double> noise = values_of(Draw(1).tensor({kLength + 8, 2}));
    const auto answer = [&](std::int64_t shift) {
      const std::vector<double> part(noise.begin() + shift * 2,
                                     noise.begin() + (shift + kLength) * 2);
      Tape tape(device, dtype);
      const Tensor x = Tensor::from(device, harness::array_of(part, dtype, {1, kLength, 2}));
      return values_of(net(tape.constant(x), Statistics::kMinibatch).value());
    };
    const ReceptiveField field = net.receptive_field(kLength);
    const std::int64_t reach = 48 - field[48].first + 3;
    const std::vector<double> still = answer(0);
    const auto differ = [&](std::int64_t shift) {
      const std::vector<double> shifted = answer(shift);
      std::int64_t count = 0;
      for (std::int64_t i = reach; i < kLength - reach - shift; ++i) {
        count += still[static_cast<std::size_t>(2 * (i + shift))] !=
                 shifted[static_cast<std::size_t>(2 * i)];
      }
      return count;
    };
    EXPECT_EQ(differ(2), 0);
    EXPECT_EQ(differ(4), 0);
    EXPECT_GT(differ(1), 10);
  });
}

TEST(TemporalUnet, NormsAreNamedInTheirOrder) {
  TemporalUnet net(device(), DType::kF64, tiny(NormKind::kGroup), 1);
  const std::vector<Network::Norm> norms = net.norms();
  NormHook hook;
  Tape tape(device(), DType::kF64);
  net(tape.constant(Draw(1).tensor({1, 8, 2})), Statistics::kMinibatch, nullptr, &hook);
  ASSERT_EQ(norms.size(), hook.inputs.size());
  ASSERT_EQ(norms.size(), 17u);  // 2 levels of 2 blocks of 2, 4, 4, 1
  for (std::size_t i = 0; i < norms.size(); ++i) {
    EXPECT_EQ(hook.inputs[i].shape()[2], 2 * norms[i].options.channels_per_set) << norms[i].name;
    EXPECT_TRUE(saved(net.parameters()).contains(norms[i].name + ".weight"));
  }
  EXPECT_EQ(norms.front().name, "downs.0.0.blocks.0.block.2");
  EXPECT_EQ(norms.back().name, "final_conv.0.block.2");
}

// --- Files --------------------------------------------------------------------------------------

// The names that diffusers' UNet1DModel gives the tensors.
std::string diffusers_name(std::string name) {
  const auto replace = [&](const std::string& from, const std::string& to) {
    const std::size_t at = name.find(from);
    if (at != std::string::npos) name.replace(at, from.size(), to);
  };
  if (name.starts_with("time_mlp.1.")) replace("time_mlp.1.", "time_mlp.linear_1.");
  if (name.starts_with("time_mlp.3.")) replace("time_mlp.3.", "time_mlp.linear_2.");
  if (!name.starts_with("time_mlp.")) replace(".time_mlp.1.", ".time_emb.");
  replace(".3.conv.", name.starts_with("downs") ? ".downsample.conv." : ".upsample.conv.");
  for (const char* level : {"0", "1", "2"}) {
    for (const char* block : {"0", "1"}) {
      replace(fmt::format("downs.{}.{}.", level, block),
              fmt::format("down_blocks.{}.resnets.{}.", level, block));
      replace(fmt::format("ups.{}.{}.", level, block),
              fmt::format("up_blocks.{}.resnets.{}.", level, block));
    }
    replace(fmt::format("downs.{}.", level), fmt::format("down_blocks.{}.", level));
    replace(fmt::format("ups.{}.", level), fmt::format("up_blocks.{}.", level));
  }
  replace("final_conv.0.block.0.", "out_block.final_conv1d_1.");
  replace("final_conv.0.block.2.", "out_block.final_conv1d_gn.");
  replace("final_conv.1.", "out_block.final_conv1d_2.");
  replace("mid_block1.", "mid_block.resnets.0.");
  replace("mid_block2.", "mid_block.resnets.1.");
  replace(".blocks.0.block.0.", ".conv_in.conv1d.");
  replace(".blocks.0.block.2.", ".conv_in.group_norm.");
  replace(".blocks.1.block.0.", ".conv_out.conv1d.");
  replace(".blocks.1.block.2.", ".conv_out.group_norm.");
  return name;
}

// Those of jannerm/diffuser's first version, without a place for attention.
std::string first_name(std::string name) {
  const std::size_t at = name.find(".3.conv.");
  if (at != std::string::npos) name.replace(at, 8, ".2.conv.");
  return name;
}

class UnetFile : public testing::Test {
 protected:
  std::filesystem::path path() const { return folder_ / "model.safetensors"; }
  std::vector<double> answer(const Network& network) const {
    Tape tape(device(), DType::kF32);
    const Tensor x = Tensor::from(device(), harness::array_of(values_of(Draw(1).tensor({2, 16, 2})),
                                                              DType::kF32, {2, 16, 2}));
    return values_of(network(tape.constant(x), Statistics::kMinibatch).value());
  }
  harness::TemporaryFolder folder_;
};

TEST_F(UnetFile, ComesBack) {
  for (const NormKind norm : {NormKind::kGroup, NormKind::kGroupPopulation, NormKind::kNone}) {
    const TemporalUnet net(device(), DType::kF32, tiny(norm, {1, 2, 2}), 3);
    save_model(path(), net);
    const auto back = load_network(path(), device(), DType::kF32);
    EXPECT_EQ(back->words(), net.words());
    EXPECT_EQ(saved(back->parameters()).size(), saved(net.parameters()).size());
    EXPECT_EQ(answer(*back), answer(net));
  }
}

TEST_F(UnetFile, OtherNamesAreRead) {
  const TemporalUnet net(device(), DType::kF32, tiny(NormKind::kGroup, {1, 2, 4}), 3);
  for (const auto rename : {diffusers_name, first_name}) {
    SafetensorsFile file;
    for (const auto& [name, array] : saved(net.parameters())) file.tensors[rename(name)] = array;
    write_safetensors(path(), file);
    const auto back = load_network(path(), device(), DType::kF32, {.groups = 2});
    EXPECT_EQ(answer(*back), answer(net));
    const auto other = load_network(path(), device(), DType::kF32, {.groups = 4});
    EXPECT_NE(answer(*other), answer(net));
  }
}

TEST_F(UnetFile, DamageIsRefused) {
  const TemporalUnet net(device(), DType::kF32, tiny(NormKind::kGroup), 3);
  const auto error = [&](const std::function<void(SafetensorsFile&)>& damage) {
    save_model(path(), net);
    SafetensorsFile file = read_safetensors(path());
    damage(file);
    write_safetensors(path(), file);
    std::string words = error_of([&] { load_network(path(), device(), DType::kF32); });
    const std::size_t at = words.find(path().string());
    if (at != std::string::npos) words.replace(at, path().string().size(), "FILE");
    return words;
  };
  const std::string key = "sidechannel.temporal_unet";
  const auto told = [&](const std::string& from, const std::string& to) {
    return error([&](SafetensorsFile& file) {
      std::string& text = file.metadata[key];
      text.replace(text.find(from), from.size(), to);
    });
  };
  EXPECT_EQ(told("\"dim\":4", "\"dim\":6"),
            "FILE: metadata sidechannel.temporal_unet says dim 6, its tensors are of 4");
  EXPECT_EQ(told("[1,2]", "[1,3]"),
            "FILE: metadata sidechannel.temporal_unet: its multipliers are not those of its "
            "tensors, 1, 2");
  EXPECT_EQ(told("\"steps\":9", "\"steps\":99999999999"),
            "FILE: steps 99999999999: expected at most 65536");
  EXPECT_EQ(told("\"groups\":2", "\"groups\":3"),
            "FILE: groups 3: expected a divisor of the 4 channels of level 0");
  EXPECT_EQ(
      error([](SafetensorsFile& file) { file.tensors.erase("ups.0.1.blocks.1.block.2.bias"); }),
      "FILE: has no tensor ups.0.1.blocks.1.block.2.bias");
  EXPECT_EQ(error([](SafetensorsFile& file) {
              file.tensors["mid_block1.time_mlp.1.bias"].as<float>()[0] = NAN;
            }),
            "FILE: mid_block1.time_mlp.1.bias is nan at [0]");
}

TEST(TemporalUnet, RefusesWhatCannotBeBuilt) {
  const auto error = [](const std::function<void(TemporalUnetConfig&)>& change) {
    TemporalUnetConfig config = tiny(NormKind::kGroup);
    change(config);
    return error_of([&] { TemporalUnet(device(), DType::kF32, config, 0); });
  };
  EXPECT_EQ(error([](auto& c) { c.dim = 5; }), "dim 5: expected an even number from 4 on");
  EXPECT_EQ(error([](auto& c) {
              c.multipliers = {2, 4};
            }),
            "multipliers 2,4: expected 1 first, and at most 16 of them");
  EXPECT_EQ(error([](auto& c) { c.groups = 3; }),
            "groups 3: expected a divisor of the 4 channels of level 0");
  EXPECT_EQ(error([](auto& c) { c.kernel_size = 4; }), "kernel size 4: expected an odd number");
  EXPECT_EQ(error([](auto& c) { c.transition = 0; }), "transition 0: expected at least 1");
}

TEST(TemporalUnet, RefusesWhatDoesNotFit) {
  TemporalUnet net(device(), DType::kF64, tiny(NormKind::kGroup, {1, 2, 2}), 1);
  Tape tape(device(), DType::kF64);
  const auto error = [&](Shape x, std::int64_t steps) {
    return error_of([&] { net(tape.make(x), tape.make({steps}), Statistics::kMinibatch); });
  };
  EXPECT_EQ(error({2, 8, 3}, 2), "temporal U-Net: expected trajectories [N, L, 2], got [2, 8, 3]");
  EXPECT_EQ(error({2, 10, 2}, 2),
            "temporal U-Net: expected a length that is a multiple of 4, got 10");
  EXPECT_EQ(error({2, 8, 2}, 3),
            "temporal U-Net: expected a step for each of 2 trajectories, got [3]");
  EXPECT_EQ(error_of([&] { net.set_step(9); }), "step 9: expected one from 0 to 8");
}

}  // namespace
}  // namespace sidechannel
