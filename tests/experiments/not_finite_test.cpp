// What is NaN or infinite is named, ends the run, and is never counted.

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/finite.h"
#include "engine/io/checkpoint.h"
#include "engine/io/npy.h"
#include "experiments/groups/group_sweep.h"
#include "experiments/localization/training.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel::harness {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<std::string> tiny(const std::string& command, const std::string& out,
                              const std::vector<std::string>& more = {}) {
  std::vector<std::string> all{
      command, "--length",      "16", "--depth",       "4",  "--channels",
      "4",     "--batch",       "2",  "--iterations",  "6",  "--probe-iterations",
      "3",     "--probe-width", "4",  "--map-samples", "80", "--log-every",
      "2",     "--out",         out};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

std::vector<std::string> tiny_overlap(const std::string& out) {
  return {"run", "--depth",    "4", "--channels",   "4",  "--batch", "2", "--iterations",
          "6",   "--overlaps", "8", "--test-pairs", "64", "--out",   out};
}

std::string last_line(const std::string& text) {
  const std::size_t end = text.find_last_not_of('\n');
  const std::size_t begin = text.rfind('\n', end);
  return text.substr(begin == std::string::npos ? 0 : begin + 1, end - begin);
}

void expect_failure(const ProgramResult& result, const std::string& line) {
  EXPECT_EQ(result.code, 1);
  EXPECT_EQ(last_line(result.err), line);
}

// Puts a value into a tensor of a safetensors file, of a checkpoint's the one before it too.
void spoil(const std::string& path, const std::string& tensor, std::size_t at, double value) {
  for (const std::string& file : {path, previous_of(path).string()}) {
    if (!std::filesystem::exists(file)) continue;
    SafetensorsFile state = read_safetensors(file);
    HostArray& array = state.tensors.at(tensor);
    if (array.dtype == DType::kF64) {
      array.as<double>()[at] = value;
    } else {
      array.as<float>()[at] = static_cast<float>(value);
    }
    write_safetensors(file, state);
  }
}

LocalizerConfig tiny_network(NormKind norm) {
  LocalizerConfig config;
  config.depth = 4;
  config.channels = 4;
  config.norm = norm;
  return config;
}

TEST(NotFinite, AWeightOfAModelIsNamedInEveryPhase) {
  const TemporaryFolder folder;
  const std::string model = folder / "m.safetensors";
  ASSERT_EQ(run_program("localization", tiny("run", folder / "good")).code, 0);
  const std::string x = folder / "x.npy";
  write_npy(x, HostArray(DType::kF32, {1, 16}));
  for (const auto& [tensor, at, value, words] :
       {std::tuple{"conv_out.bias", 0, kNan, "nan at [0]"},
        {"blocks.0.conv.weight", 23, kInfinity, "inf at [1, 0, 3]"},
        {"blocks.1.norm.weight", 2, -kInfinity, "-inf at [2]"}}) {
    std::filesystem::copy_file(folder / "good" + "/model.safetensors", model,
                               std::filesystem::copy_options::overwrite_existing);
    spoil(model, tensor, static_cast<std::size_t>(at), value);
    const std::string line = fmt::format("localization: {}: {} is {}", model, tensor, words);
    for (const char* command : {"probe", "map", "run"}) {
      for (const char* probes : {"all", "none"}) {
        const std::string out = folder / "bad";
        expect_failure(
            run_program("localization", tiny(command, out, {"--model", model, "--probes", probes})),
            line);
        EXPECT_FALSE(std::filesystem::exists(out + "/localized.npy"));
        EXPECT_FALSE(std::filesystem::exists(out + "/summary.json"));
        std::filesystem::remove_all(out);
      }
    }
    expect_failure(run_program("localization", {"predict", "--model", model, "--input", x,
                                                "--output", folder / "y.npy"}),
                   line);
    EXPECT_FALSE(std::filesystem::exists(folder / "y.npy"));
  }
}

TEST(NotFinite, TensorsOfAnyNameAreNamedInOneShortLine) {
  const HostArray nan = HostArray::from<float>(std::span(&kNan, 1), {1});
  EXPECT_EQ(error_of([&] {
              check_finite({{"a\n\u202eb", nan}}, "f");
            }),
            "f: \"a\\x0a\\xe2\\x80\\xaeb\" is nan at [0]");
  EXPECT_EQ(error_of([&] {
              check_finite({{std::string(5000, 'x'), nan}}, "f");
            }),
            "f: \"" + std::string(40, 'x') + "\"... is nan at [0]");
}

TEST(NotFinite, AModelWithAVarianceBelow0IsRefused) {
  const TemporaryFolder folder;
  const std::string model = folder / "m.safetensors";
  save_model(model, Localizer(Device::cpu(1), DType::kF32, tiny_network(NormKind::kBatch), 1));
  spoil(model, "blocks.1.norm.running_mean", 2, -0.5);
  load_model(model, Device::cpu(1));
  spoil(model, "blocks.1.norm.running_var", 2, -0.5);
  EXPECT_EQ(error_of([&] { load_model(model, Device::cpu(1)); }),
            model + ": tensor blocks.1.norm.running_var holds -0.5, expected at least 0");
}

// Weights may be finite, and what they make of their input not.
TEST(NotFinite, AnActivationEndsTheMapAlsoWhereTheOutputDoesNotShowIt) {
  const TemporaryFolder folder;
  const std::string model = folder / "m.safetensors";
  Localizer network(Device::cpu(1), DType::kF32, tiny_network(NormKind::kNone), 1);
  for (Parameter& p : network.parameters().parameters()) {
    if (p.name == "conv_in.weight") p.value.fill(3e38);
    // Behind it -inf, which a ReLU makes 0, wherever z(1) is inf: where it is not, it is 0 or -inf.
    if (p.name == "blocks.0.conv.weight") p.value.fill(0);
  }
  save_model(model, network);
  const std::string out = folder / "run";
  const ProgramResult result = run_program(
      "localization", tiny("map", out, {"--norm", "none", "--probes", "none", "--model", model}));
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(last_line(result.err).starts_with("localization: map, batch 0: conv_in gave "))
      << result.err;
  EXPECT_TRUE(last_line(result.err).ends_with("; nothing is mapped")) << result.err;
  EXPECT_FALSE(std::filesystem::exists(out + "/localized.npy"));
}

TEST(NotFinite, TrainingNamesTheLayerAndTheStepWhereItStood) {
  const TemporaryFolder folder;
  const std::string out = folder / "run";
  ASSERT_EQ(
      run_program("localization", tiny("train", out, {"--stop-after", "4", "--norm", "none"})).code,
      75);
  // Finite weights: z(1) overflows, in the fifth step.
  const std::string state = out + "/checkpoint.safetensors";
  spoil(state, "blocks.0.conv.bias", 1, 3e38);
  spoil(state, "blocks.1.conv.weight", 5, 3e38);
  const ProgramResult result = run_program("localization", tiny("train", out, {"--norm", "none"}));
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(result.err.find("localization: step 4: loss "), std::string::npos) << result.err;
  EXPECT_NE(result.err.find("; first blocks.1.conv gave inf at ["), std::string::npos)
      << result.err;
}

TEST(NotFinite, ALayerBehindAGoodForwardPassIsNamedByItsGradient) {
  Localizer network(Device::cpu(1), DType::kF32, tiny_network(NormKind::kNone), 1);
  experiments::LocalizationStep step(network, LearningRate{1e-3}, 2, 16, 1);
  EXPECT_EQ(step.not_finite(0), "");
  // The last layer's gradient is a sum over z(3) dy: both are large, but finite, and so is the
  // loss.
  for (Parameter& p : network.parameters().parameters()) {
    if (p.name == "blocks.1.conv.bias") p.value.fill(3e38);
    if (p.name == "conv_out.weight") p.value.fill(0);
    if (p.name == "conv_out.bias") p.value.fill(1e3);
  }
  EXPECT_TRUE(step.not_finite(0).starts_with("the gradient of conv_out.weight is "))
      << step.not_finite(0);
  step();
  EXPECT_TRUE(step.adam().halted());
}

// Adam's second moment is the square of gradients: infinite, it would freeze its weight for ever.
TEST(NotFinite, AGradientWhoseSquareIsInfiniteStopsTrainingToo) {
  Localizer network(Device::cpu(1), DType::kF32, tiny_network(NormKind::kNone), 1);
  experiments::LocalizationStep step(network, LearningRate{1e-3}, 2, 16, 1);
  for (Parameter& p : network.parameters().parameters()) {
    if (p.name == "blocks.1.conv.bias") p.value.fill(1e4);
    if (p.name == "conv_out.weight") p.value.fill(0);
    if (p.name == "conv_out.bias") p.value.fill(1e18);
  }
  step();
  EXPECT_TRUE(step.adam().halted());
  EXPECT_GT(step.adam().gradient_norm(), std::sqrt(std::numeric_limits<float>::max()));
  EXPECT_EQ(step.not_finite(0), "");
  std::map<std::string, HostArray> tensors;
  step.save(tensors);
  for (const float v : tensors.at("adam.v").as<float>()) EXPECT_EQ(v, 0);
}

TEST(NotFinite, StatesOfEveryPhaseAreRefused) {
  const TemporaryFolder folder;
  const std::string out = folder / "run";
  const auto refused = [&](const std::string& program, const std::vector<std::string>& arguments,
                           const std::string& state, const std::string& tensor, double value) {
    const std::string kept = folder / "kept";
    std::filesystem::copy_file(state, kept, std::filesystem::copy_options::overwrite_existing);
    spoil(state, tensor, 0, value);
    const ProgramResult result = run_program(program, arguments);
    EXPECT_EQ(result.code, 1) << tensor;
    EXPECT_NE(last_line(result.err).find(fmt::format("{}: {} is {} at [0", state, tensor, value)),
              std::string::npos)
        << result.err;
    std::filesystem::copy_file(kept, state, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::remove(previous_of(state));
  };
  ASSERT_EQ(
      run_program("localization", tiny("run", out, {"--norm", "batch", "--stop-after", "3"})).code,
      75);
  for (const char* tensor : {"adam.m", "adam.v", "conv_out.bias", "blocks.0.norm.running_var",
                             "window.outputs.mean", "window.loss.m2", "shown"}) {
    refused("localization", tiny("run", out, {"--norm", "batch"}), out + "/checkpoint.safetensors",
            tensor, kNan);
  }
  ASSERT_EQ(run_program("localization", tiny("train", out, {"--norm", "batch"})).code, 0);
  ASSERT_EQ(
      run_program("localization", tiny("probe", out, {"--norm", "batch", "--stop-after", "2"}))
          .code,
      75);
  refused("localization", tiny("probe", out, {"--norm", "batch"}),
          out + "/probes_checkpoint.safetensors", "layers.2.1.weight", kInfinity);
  ASSERT_EQ(run_program("localization", tiny("probe", out, {"--norm", "batch"})).code, 0);
  ASSERT_EQ(
      run_program("localization", tiny("map", out, {"--norm", "batch", "--stop-after", "2"})).code,
      75);
  for (const char* tensor : {"samples", "layers.4.mean", "layers.1.m2"}) {
    refused("localization", tiny("map", out, {"--norm", "batch"}),
            out + "/map_checkpoint.safetensors", tensor, kNan);
  }
  EXPECT_EQ(run_program("localization", tiny("map", out, {"--norm", "batch"})).code, 0);

  const std::string overlap = folder / "overlap";
  ASSERT_EQ(run_program("overlap", tiny_overlap(overlap)).code, 0);
  std::filesystem::remove(overlap + "/overlap-008/result.json");
  refused("overlap", tiny_overlap(overlap), overlap + "/overlap-008/test_checkpoint.safetensors",
          "answers.mean", kNan);
  refused("overlap", tiny_overlap(overlap), overlap + "/overlap-008/checkpoint.safetensors",
          "adam.v", kInfinity);
}

TEST(NotFinite, AnOverlapsAnswersEndItsTest) {
  const TemporaryFolder folder;
  const std::string out = folder / "overlap";
  ASSERT_EQ(run_program("overlap", tiny_overlap(out)).code, 0);
  std::filesystem::remove(out + "/overlap-008/result.json");
  for (const char* file : {"/test_checkpoint.safetensors", "/test_checkpoint.previous.safetensors"})
    std::filesystem::remove(out + "/overlap-008" + file);
  std::filesystem::remove(previous_of(out + "/overlap-008/test_checkpoint.safetensors"));
  // Finite weights, whose sum overflows.
  for (std::size_t i = 0; i < 20; ++i) {
    spoil(out + "/overlap-008/checkpoint.safetensors", "conv_out.weight", i, 3e38);
  }
  spoil(out + "/overlap-008/checkpoint.safetensors", "conv_out.bias", 0, 3e38);
  const ProgramResult result = run_program("overlap", tiny_overlap(out));
  EXPECT_EQ(result.code, 1);
  EXPECT_NE(
      last_line(result.err).find("overlap-008: test, batch 0: conv_out gave inf at [0, 0, 0]"),
      std::string::npos)
      << result.err;
  EXPECT_FALSE(std::filesystem::exists(out + "/overlap-008/result.json"));
}

TEST(NotFinite, ACellWhosePredictionsWereNotIsNotCollected) {
  const TemporaryFolder folder;
  const std::string out = folder / "sweep";
  const auto plan = experiments::plan_groups("demo", {{"groups", {1}}, {"seeds", 1}});
  experiments::write_plan(out, plan);
  for (std::size_t i = 0; i < plan.cells.size(); ++i) {
    const auto& cell = plan.cells[i];
    std::filesystem::create_directories(out + "/cells/" + cell.id);
    std::ofstream(out + "/cells/" + cell.id + "/config.json")
        << Json{{"settings", experiments::to_json(plan.settings_of(i))}};
    // As an earlier version left them.
    std::ofstream(out + "/cells/" + cell.id + "/summary.json")
        << R"({"final_loss": null, "interior_slope": null, "localized_fraction": [1.0],
              "interior_localized_fraction": [1.0], "localization_distance": 32})";
  }
  expect_failure(run_program("groups", {"collect", "--out", out}),
                 fmt::format("groups: {}/cells/{}/summary.json: its predictions are not finite",
                             out, plan.cells[0].id));
  EXPECT_FALSE(std::filesystem::exists(out + "/results.json"));
}

class NotFinitePredict : public testing::Test {
 protected:
  // What becomes of x [2, 21] through a network of depth 4 (R = 8).
  ProgramResult predict(NormKind norm, const HostArray& x) {
    const Localizer network(Device::cpu(1), DType::kF32, tiny_network(norm), 3);
    save_model(folder_ / "m.safetensors", network);
    write_npy(folder_ / "x.npy", x);
    std::filesystem::remove(folder_ / "y.npy");
    return run_program("localization",
                       {"predict", "--model", folder_ / "m.safetensors", "--input",
                        folder_ / "x.npy", "--output", folder_ / "y.npy", "--device", "cpu"});
  }
  std::string line(const std::string& what) const {
    return fmt::format("localization: {}: {}; predictions that depend on them are NaN too\n",
                       folder_ / "x.npy", what);
  }
  static HostArray input(DType dtype = DType::kF32) {
    HostArray x(dtype, {2, 21});
    for (std::size_t i = 0; i < 42; ++i) {
      const double value = std::sin(static_cast<double>(i * i));
      if (dtype == DType::kF32)
        x.as<float>()[i] = static_cast<float>(value);
      else
        x.as<double>()[i] = value;
    }
    return x;
  }
  TemporaryFolder folder_;
};

TEST_F(NotFinitePredict, ANanIsToldAndSpreadsAsFarAsItIsHeard) {
  ASSERT_EQ(predict(NormKind::kNone, input()).err, "");
  const HostArray clean = read_npy(folder_ / "y.npy");
  HostArray x = input();
  x.as<float>()[21 + 2] = kNan;
  for (const NormKind norm : {NormKind::kNone, NormKind::kInstance}) {
    const ProgramResult result = predict(norm, x);
    EXPECT_EQ(result.code, 0);
    EXPECT_EQ(result.err,
              line("1 of 42 values are NaN, infinite or beyond f32, the first is nan at [1, 2]"));
    const HostArray y = read_npy(folder_ / "y.npy");
    for (std::size_t i = 0; i < 42; ++i) {
      const bool heard = i >= 21 && (norm == NormKind::kInstance || i <= 21 + 2 + 8);
      EXPECT_EQ(std::isnan(y.as<float>()[i]), heard) << i;
      if (norm == NormKind::kNone && !heard) {
        EXPECT_EQ(y.as<float>()[i], clean.as<float>()[i]);
      }
    }
  }
}

TEST_F(NotFinitePredict, InfinitiesAndWhatF32CannotHoldAreToldToo) {
  HostArray x = input(DType::kF64);
  x.as<double>()[3] = 1e300;
  x.as<double>()[30] = -1e39;
  x.as<double>()[31] = -static_cast<double>(kInfinity);
  const ProgramResult result = predict(NormKind::kInstance, x);
  EXPECT_EQ(result.code, 0);
  EXPECT_EQ(result.err,
            line("3 of 42 values are NaN, infinite or beyond f32, the first is inf at [0, 3]"));
  const HostArray y = read_npy(folder_ / "y.npy");
  for (std::size_t i = 0; i < 42; ++i)
    EXPECT_TRUE(std::isnan(y.as<float>()[i])) << i << ": " << y.as<float>()[i];
}

TEST_F(NotFinitePredict, AFiniteInputThatOverflowsInsideIsAFailure) {
  HostArray x = input();
  x.as<float>()[21 + 4] = 3e38f;
  for (float& v : x.as<float>().subspan(21)) v = v < 0 ? -3e38f : 3e38f;
  const ProgramResult result = predict(NormKind::kInstance, x);
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(result.err.starts_with("localization: " + (folder_ / "x.npy") +
                                     ": the prediction is nan at [1, 0]; first "))
      << result.err;
  EXPECT_FALSE(std::filesystem::exists(folder_ / "y.npy"));
}

}  // namespace
}  // namespace sidechannel::harness
