// What is NaN or infinite is named, ends the run, and is never counted.

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "engine/finite.h"
#include "engine/io/checkpoint.h"
#include "engine/io/npy.h"
#include "experiments/localization/training.h"
#include "experiments/sweep/plan.h"
#include "tests/harness/op_check.h"
#include "tests/harness/program.h"

namespace sidechannel::harness {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

ProgramResult localization(const std::string& command, const std::string& out,
                           const Words& more = {}) {
  return run_program(
      "localization",
      with(words(command + " --length 16 --depth 4 --channels 4 --batch 2 --iterations 6 "
                           "--probe-iterations 3 --probe-width 4 --map-samples 80 --log-every 2",
                 {"--out", out}),
           more));
}

ProgramResult overlap(const std::string& out) {
  return run_program("overlap", words("run --depth 4 --channels 4 --batch 2 --iterations 6 "
                                      "--overlaps 8 --test-pairs 64 --out",
                                      {out}));
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

Localizer tiny_network(NormKind norm, std::uint64_t seed = 1) {
  return {Device::cpu(1), DType::kF32, {.depth = 4, .channels = 4, .norm = norm}, seed};
}

// Fills parameters, by name.
void fill(Localizer& network, const std::map<std::string, double>& values) {
  for (Parameter& p : network.parameters().parameters()) {
    if (values.contains(p.name)) p.value.fill(values.at(p.name));
  }
}

TEST(NotFinite, AWeightOfAModelIsNamedInEveryPhase) {
  const TemporaryFolder folder;
  const std::string model = folder / "m.safetensors";
  ASSERT_EQ(localization("run", folder / "good").code, 0);
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
        expect_failure(localization(command, out, {"--model", model, "--probes", probes}), line);
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
  save_model(model, tiny_network(NormKind::kBatch));
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
  Localizer network = tiny_network(NormKind::kNone);
  // Behind it -inf, which a ReLU makes 0, wherever z(1) is inf: where it is not, it is 0 or -inf.
  fill(network, {{"conv_in.weight", 3e38}, {"blocks.0.conv.weight", 0}});
  save_model(model, network);
  const std::string out = folder / "run";
  const ProgramResult result =
      localization("map", out, words("--norm none --probes none --model", {model}));
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(begins(last_line(result.err), "localization: map, batch 0: conv_in gave "));
  EXPECT_TRUE(ends(last_line(result.err), "; nothing is mapped"));
  EXPECT_FALSE(std::filesystem::exists(out + "/localized.npy"));
}

TEST(NotFinite, TrainingNamesTheLayerAndTheStepWhereItStood) {
  const TemporaryFolder folder;
  const std::string out = folder / "run";
  ASSERT_EQ(localization("train", out, words("--stop-after 4 --norm none")).code, 75);
  // Finite weights: z(1) overflows, in the fifth step.
  const std::string state = out + "/checkpoint.safetensors";
  spoil(state, "blocks.0.conv.bias", 1, 3e38);
  spoil(state, "blocks.1.conv.weight", 5, 3e38);
  const ProgramResult result = localization("train", out, {"--norm", "none"});
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(has(result.err, "localization: step 4: loss "));
  EXPECT_TRUE(has(result.err, "; first blocks.1.conv gave inf at ["));
}

TEST(NotFinite, ALayerBehindAGoodForwardPassIsNamedByItsGradient) {
  Localizer network = tiny_network(NormKind::kNone);
  experiments::LocalizationStep step(network, LearningRate{1e-3}, 2, 16, 1);
  EXPECT_EQ(step.not_finite(0), "");
  // The last layer's gradient is a sum over z(3) dy: both are large, but finite, and so is the
  // loss.
  fill(network, {{"blocks.1.conv.bias", 3e38}, {"conv_out.weight", 0}, {"conv_out.bias", 1e3}});
  EXPECT_TRUE(begins(step.not_finite(0), "the gradient of conv_out.weight is "));
  step();
  EXPECT_TRUE(step.adam().halted());
}

// Adam's second moment is the square of gradients: infinite, it would freeze its weight for ever.
TEST(NotFinite, AGradientWhoseSquareIsInfiniteStopsTrainingToo) {
  Localizer network = tiny_network(NormKind::kNone);
  experiments::LocalizationStep step(network, LearningRate{1e-3}, 2, 16, 1);
  fill(network, {{"blocks.1.conv.bias", 1e4}, {"conv_out.weight", 0}, {"conv_out.bias", 1e18}});
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
  const auto run = [&](const std::string& command, const std::string& more = "") {
    return localization(command, out, words("--norm batch" + more));
  };
  const auto refused = [&](const std::function<ProgramResult()>& again, const std::string& state,
                           const std::string& tensor, double value) {
    const std::string kept = folder / "kept";
    std::filesystem::copy_file(state, kept, std::filesystem::copy_options::overwrite_existing);
    spoil(state, tensor, 0, value);
    const ProgramResult result = again();
    EXPECT_EQ(result.code, 1) << tensor;
    EXPECT_TRUE(
        has(last_line(result.err), fmt::format("{}: {} is {} at [0", state, tensor, value)));
    std::filesystem::copy_file(kept, state, std::filesystem::copy_options::overwrite_existing);
    std::filesystem::remove(previous_of(state));
  };
  ASSERT_EQ(run("run", " --stop-after 3").code, 75);
  for (const char* tensor : {"adam.m", "adam.v", "conv_out.bias", "blocks.0.norm.running_var",
                             "window.outputs.mean", "window.loss.m2", "shown"}) {
    refused([&] { return run("run"); }, out + "/checkpoint.safetensors", tensor, kNan);
  }
  ASSERT_EQ(run("train").code, 0);
  ASSERT_EQ(run("probe", " --stop-after 2").code, 75);
  refused([&] { return run("probe"); }, out + "/probes_checkpoint.safetensors", "layers.2.1.weight",
          kInfinity);
  ASSERT_EQ(run("probe").code, 0);
  ASSERT_EQ(run("map", " --stop-after 2").code, 75);
  for (const char* tensor : {"samples", "layers.4.mean", "layers.1.m2"}) {
    refused([&] { return run("map"); }, out + "/map_checkpoint.safetensors", tensor, kNan);
  }
  EXPECT_EQ(run("map").code, 0);

  const std::string pairs = folder / "overlap";
  const std::string state = pairs + "/overlap-008/";
  const auto again = [&] { return overlap(pairs); };
  ASSERT_EQ(again().code, 0);
  std::filesystem::remove(state + "result.json");
  refused(again, state + "test_checkpoint.safetensors", "answers.mean", kNan);
  refused(again, state + "checkpoint.safetensors", "adam.v", kInfinity);
}

TEST(NotFinite, AnOverlapsAnswersEndItsTest) {
  const TemporaryFolder folder;
  const std::string state = folder / "overlap/overlap-008/";
  ASSERT_EQ(overlap(folder / "overlap").code, 0);
  std::filesystem::remove(state + "result.json");
  std::filesystem::remove(state + "test_checkpoint.safetensors");
  std::filesystem::remove(previous_of(state + "test_checkpoint.safetensors"));
  // Finite weights, whose sum overflows.
  for (std::size_t i = 0; i < 20; ++i) {
    spoil(state + "checkpoint.safetensors", "conv_out.weight", i, 3e38);
  }
  spoil(state + "checkpoint.safetensors", "conv_out.bias", 0, 3e38);
  const ProgramResult result = overlap(folder / "overlap");
  EXPECT_EQ(result.code, 1);
  EXPECT_TRUE(
      has(last_line(result.err), "overlap-008: test, batch 0: conv_out gave inf at [0, 0, 0]"));
  EXPECT_FALSE(std::filesystem::exists(state + "result.json"));
}

TEST(NotFinite, ACellWhosePredictionsWereNotIsNotCollected) {
  const TemporaryFolder folder;
  const std::string out = folder / "sweep";
  const auto plan = experiments::plan_sweep({.preset = "groups/demo", .over = {"groups=1"}});
  experiments::write_plan(out, plan);
  for (std::size_t i = 0; i < plan.cells.size(); ++i) {
    const auto& cell = plan.cells[i];
    std::filesystem::create_directories(out + "/cells/" + cell.id);
    std::ofstream(out + "/cells/" + cell.id + "/config.json")
        << Json{{"settings", plan.settings_of(i)}};
    // As an earlier version left them.
    std::ofstream(out + "/cells/" + cell.id + "/summary.json")
        << R"({"final_loss": null, "interior_slope": null, "localized_fraction": [1.0],
              "interior_localized_fraction": [1.0], "localization_distance": 32,
              "unbroken_distance": 32})";
  }
  expect_failure(
      run_program("sweep", {"collect", "--out", out}),
      fmt::format("sweep: {}/cells/{}/summary.json: its predictions are not finite; without "
                  "its folder `sweep run` makes it again",
                  out, plan.cells[0].id));
  EXPECT_FALSE(std::filesystem::exists(out + "/results.json"));
}

class NotFinitePredict : public testing::Test {
 protected:
  // What becomes of x [2, 21] through a network of depth 4 (R = 8).
  ProgramResult predict(NormKind norm, const HostArray& x) {
    save_model(folder_ / "m.safetensors", tiny_network(norm, 3));
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
  EXPECT_TRUE(begins(result.err, "localization: " + (folder_ / "x.npy") +
                                     ": the prediction is nan at [1, 0]; first "));
  EXPECT_FALSE(std::filesystem::exists(folder_ / "y.npy"));
}

}  // namespace
}  // namespace sidechannel::harness
