// Which norms carry what receptive fields do not hold (Figure 2), on networks of which it is known.

#include "experiments/localization/paths.h"

#include <gtest/gtest.h>

#include "engine/io/npy.h"
#include "models/frozen_statistics.h"
#include "tests/harness/backends.h"
#include "tests/harness/localizer_check.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

using harness::content_of;
using harness::Draw;
using harness::relative_difference;
using harness::run_program;
using harness::TemporaryFolder;
using harness::values_of;
using harness::with;
using harness::words;

const std::vector<NormKind> kKinds = {
    NormKind::kInstance, NormKind::kGroup, NormKind::kGroupPopulation,
    NormKind::kLayer,    NormKind::kBatch, NormKind::kPosition,
    NormKind::kRms,      NormKind::kNone};
bool carries(NormKind norm) {
  return norm != NormKind::kNone && norm != NormKind::kPosition && norm != NormKind::kRms;
}

LocalizerConfig config_of(NormKind norm) {
  return {
      .depth = 5, .channels = 6, .kernel_size = 3, .norm = norm, .groups = 2, .samples_per_set = 2};
}

// --- Frozen statistics --------------------------------------------------------------------------

void check_frozen(const Device& device, DType dtype) {
  for (const NormKind norm : kKinds) {
    SCOPED_TRACE(fmt::format("{} {} {}", device.name(), name_of(dtype), name_of(norm)));
    const LocalizerConfig config = config_of(norm);
    Localizer net(device, dtype, config, 3);
    const std::int64_t set = config.norm_options().samples_per_set, length = 23;
    const Shape shape{set, length, 1};
    std::vector<double> values = values_of(Draw(4).tensor(shape));
    const auto tensor = [&] {
      return Tensor::from(device, harness::array_of(values, dtype, shape));
    };
    NormHook hook{statistics_of(net, tensor())};
    EXPECT_EQ(hook.layers.size(), norm == NormKind::kNone ? 0u : 3u);
    const auto answer = [&](NormHook* with) {
      Tape tape(device, dtype);
      return values_of(net(tape.constant(tensor()), Statistics::kMinibatch, nullptr, with).value());
    };
    // Of the input that they are of, the answer is that of the network's own statistics.
    const std::vector<double> own = answer(nullptr), fixed = answer(&hook);
    EXPECT_LE(relative_difference(fixed, own), dtype == DType::kF64 ? 1e-12 : 1e-2);
    // Through them nothing is heard.
    values[2] += 1;
    const std::vector<double> other = answer(&hook), live = answer(nullptr);
    bool carried = false;
    for (std::int64_t i = 0; i < set * length; ++i) {
      const auto at = static_cast<std::size_t>(i);
      if (i < length && std::abs(i - 2) <= config.receptive_field()) continue;
      ASSERT_EQ(other[at], fixed[at]) << i;
      carried = carried || live[at] != own[at];
    }
    EXPECT_EQ(carried, carries(norm));
    // The gradient of an output, too, is 0 beyond the field, where nothing is filtered. So it is
    // where the norms take their own statistics and hold them on the way back; and it is the same.
    values[2] -= 1;
    const auto gradient_with = [&](NormHook* with) {
      Tape tape(device, dtype);
      const HoldParameters held(tape);
      const Var x = tape.leaf(tensor());
      const Var y = net(x, Statistics::kMinibatch, nullptr, with);
      std::vector<double> one(values.size());
      one[11] = 1;
      tape.backward(y, Tensor::from(device, harness::array_of(one, dtype, shape)));
      return values_of(tape.gradient(x));
    };
    NormHook back{std::vector<NormHook::Layer>(hook.layers.size(), {{}, false, false})};
    NormHook mean = back, variance = back;
    for (NormHook::Layer& layer : mean.layers) layer.through_mean = true;
    for (NormHook::Layer& layer : variance.layers) layer.through_variance = true;
    const auto of_fixed = gradient_with(&hook), of_held = gradient_with(&back);
    for (const auto& gradient : {of_fixed, of_held}) {
      for (std::int64_t i = 0; i < set * length; ++i) {
        const bool inside = std::abs(i - 11) <= config.receptive_field();
        ASSERT_TRUE(inside || gradient[static_cast<std::size_t>(i)] == 0) << i;
      }
    }
    const auto far = [&](const std::vector<double>& gradient) { return gradient[22] != 0; };
    EXPECT_EQ(far(gradient_with(nullptr)), carries(norm));
    EXPECT_EQ(far(gradient_with(&mean)), carries(norm));
    EXPECT_EQ(far(gradient_with(&variance)), carries(norm));
    if (carries(norm)) {  // the others' fixed statistics are none, and their own are not held
      EXPECT_LE(relative_difference(of_held, of_fixed), dtype == DType::kF64 ? 1e-12 : 1e-2);
      EXPECT_GT(relative_difference(gradient_with(&mean), of_fixed), 1e-3);
      EXPECT_GT(relative_difference(gradient_with(&variance), of_fixed), 1e-3);
    }
  }
}

BACKEND_TEST(FrozenStatistics, AnswerTheSameAndHearNothing) {
  Backend::for_devices(check_frozen);
}

TEST(FrozenStatistics, AreOfOneSet) {
  const Localizer net(harness::device(), DType::kF64, config_of(NormKind::kBatch), 3);
  EXPECT_EQ(harness::error_of([&] {
              statistics_of(net, Draw(1).tensor({4, 9, 1}));
            }),
            "frozen statistics: expected the 2 sequences of one set, got 4");
}

// --- Paths --------------------------------------------------------------------------------------

class Paths : public testing::Test {
 protected:
  Json measure(const Device& device, const Localizer& network, NormKind norm,
               const std::function<void(PathsSettings&)>& change = {}) {
    PathsSettings settings;
    settings.length = 25;
    settings.depth = 5;
    settings.channels = 6;
    settings.kernel_size = 3;
    settings.norm = name_of(norm);
    settings.groups = 2;
    settings.samples_per_set = 2;
    settings.sequences = 5;
    if (change) change(settings);
    const std::string out = folder_ / std::to_string(++count_);
    RunFolder folder(out, to_json(PathsSettings::flags(), settings), device, Resume::kAuto);
    Json summary = measure_paths(settings, network, folder);
    for (const char* name : {"change", "carried"}) {
      arrays_[name] = read_npy(folder.file(fmt::format("{}.npy", name)));
    }
    return summary;
  }
  // Turns off what norm `layer`, from 0, passes on of its statistics: its beta alone is left.
  static void silence(Localizer& net, int layer) {
    for (Parameter& parameter : net.parameters().parameters()) {
      if (parameter.name == fmt::format("blocks.{}.norm.weight", layer)) parameter.value.fill(0);
    }
  }

  TemporaryFolder folder_;
  int count_ = 0;
  std::map<std::string, HostArray> arrays_;
};

TEST_F(Paths, AreNoneWithoutStatisticsOverPositions) {
  for (const NormKind norm : {NormKind::kNone, NormKind::kPosition, NormKind::kRms}) {
    const Localizer net(harness::device(), DType::kF32, config_of(norm), 3);
    const Json summary = measure(harness::device(), net, norm);
    EXPECT_EQ(summary["rms_change"], 0.0);
    const Json nothing = {nullptr, nullptr, nullptr};
    EXPECT_EQ(summary["carried"], norm == NormKind::kNone ? Json::array() : nothing);
    for (const double change : arrays_["change"].as<double>()) EXPECT_EQ(change, 0);
  }
}

TEST_F(Paths, LeadThroughStatisticsAlone) {
  for (const NormKind norm :
       {NormKind::kInstance, NormKind::kGroup, NormKind::kLayer, NormKind::kBatch}) {
    SCOPED_TRACE(name_of(norm));
    const Localizer net(harness::device(), DType::kF32, config_of(norm), 3);
    const Json summary = measure(harness::device(), net, norm);
    EXPECT_GT(summary["rms_change"], 1e-3);
    EXPECT_EQ(summary["largest_change_all_fixed"], 0.0);  // a test, not a tolerance
    EXPECT_EQ(summary["layers"], (Json{2, 3, 4}));
    EXPECT_EQ(summary["index"], 13);
    EXPECT_EQ(summary["positions_outside"], 25 - 11);
    EXPECT_EQ(summary["type"], "f64");
    double together = 0;
    for (const auto& share : summary["carried"]) together += share.get<double>();
    EXPECT_NEAR(together, 1, 1e-9);
    for (std::int64_t i = 0; i < 25; ++i) {
      const bool inside = std::abs(i - 12) <= 5;
      const double change = arrays_["change"].as<double>()[static_cast<std::size_t>(i)];
      EXPECT_EQ(change == 0, inside) << i;
      double carried = 0;
      for (std::size_t l = 0; l < 3; ++l) {
        carried += arrays_["carried"].as<double>()[25 * l + static_cast<std::size_t>(i)];
      }
      EXPECT_NEAR(carried, change, 1e-9 * change) << i;
    }
  }
}

// With one norm, everything is its own.
TEST_F(Paths, OfOneNormAreItsOwn) {
  LocalizerConfig config = config_of(NormKind::kInstance);
  config.depth = 3;
  const Localizer net(harness::device(), DType::kF32, config, 3);
  const Json summary =
      measure(harness::device(), net, NormKind::kInstance, [](auto& s) { s.depth = 3; });
  EXPECT_EQ(summary["layers"], (Json{2}));
  for (const char* name : {"carried", "carried_alone", "lost_without"}) {
    EXPECT_DOUBLE_EQ(summary[name][0].get<double>(), 1) << name;
  }
}

// Known networks: a norm with gamma = 0 ends every way. Behind it nothing of x is left, so nothing
// gets there at all.
TEST_F(Paths, EndAtANormThatPassesNothingOn) {
  for (const int layer : {0, 1, 2}) {
    Localizer net(harness::device(), DType::kF32, config_of(NormKind::kInstance), 3);
    silence(net, layer);
    const Json summary = measure(harness::device(), net, NormKind::kInstance);
    EXPECT_EQ(summary["rms_change"], 0.0) << layer;
  }
}

// The measured shares against the definition, by networks run one by one, in one sequence. Of two
// norms there is an order and its reverse, so that the mean over orders is known.
TEST_F(Paths, AgreeWithTheDefinition) {
  const Device& device = harness::device();
  LocalizerConfig config = config_of(NormKind::kInstance);
  config.depth = 4;
  Localizer trained(device, DType::kF32, config, 3);
  const Json summary = measure(device, trained, NormKind::kInstance, [](auto& s) {
    s.depth = 4;
    s.sequences = 1;
    s.index = 3;
  });
  EXPECT_EQ(summary["index"], 3);

  TensorMap tensors = harness::saved(trained.parameters());
  for (auto& [name, array] : tensors) array = converted(array, DType::kF64);
  const Localizer net(device, DType::kF64, trained.config(), tensors, "test");
  Tape draws(device);
  const std::vector<double> drawn =
      values_of(draws.normal({2, 25}, Stream{5}, Random(device, 0)).value());
  std::vector<double> x(drawn.begin(), drawn.begin() + 25), changed = x;
  for (std::size_t i = 7; i < 25; ++i) changed[i] = drawn[25 + i];  // beyond 2 + R
  using Held = std::vector<NormHook::Layer>;
  const auto answer = [&](const std::vector<double>& values, Held fixed) {
    Tape tape(device, DType::kF64);
    NormHook hook{std::move(fixed)};
    const Var in = tape.constant(harness::tensor_of(values, {1, 25, 1}));
    return values_of(net(in, Statistics::kMinibatch, nullptr, &hook).value())[2];
  };
  const auto delta = [&](const Held& fixed) { return answer(changed, fixed) - answer(x, fixed); };
  const auto fixed = statistics_of(net, harness::tensor_of(x, {1, 25, 1}));
  const double whole = delta({});
  EXPECT_NEAR(summary["rms_change"].get<double>(), std::abs(whole), 1e-12);
  EXPECT_EQ(delta(fixed), 0);
  for (std::size_t l = 0; l < 2; ++l) {
    auto others = fixed;
    others[l] = {};
    Held one(2);
    one[l] = fixed[l];
    const double alone = delta(others) / whole, lost = 1 - delta(one) / whole;
    EXPECT_NEAR(summary["carried_alone"][l].get<double>(), alone, 1e-9);
    EXPECT_NEAR(summary["lost_without"][l].get<double>(), lost, 1e-9);
    EXPECT_NEAR(summary["carried"][l].get<double>(), (alone + lost) / 2, 1e-9);
    EXPECT_GT(std::abs(alone - lost), 1e-3);  // or they could not be told apart
  }
}

#if SIDECHANNEL_HAS_CUDA
class CudaPaths : public Paths {
 protected:
  void SetUp() override {
    std::string why;
    if (kernels::cuda_devices(&why).empty()) GTEST_SKIP() << why;
  }
};

TEST_F(CudaPaths, AreThoseOfTheCpu) {
  for (const NormKind norm : {NormKind::kInstance, NormKind::kGroup, NormKind::kPosition}) {
    SCOPED_TRACE(name_of(norm));
    const Json cpu = measure(harness::device(),
                             Localizer(harness::device(), DType::kF32, config_of(norm), 3), norm);
    const Json cuda =
        measure(harness::cuda_device(),
                Localizer(harness::cuda_device(), DType::kF32, config_of(norm), 3), norm);
    EXPECT_EQ(cuda["type"], "f32");
    EXPECT_EQ(cuda["largest_change_all_fixed"], 0.0);
    EXPECT_NEAR(cuda["rms_change"].get<double>(), cpu["rms_change"].get<double>(), 1e-4);
    if (norm == NormKind::kPosition) continue;
    for (std::size_t l = 0; l < 3; ++l) {
      EXPECT_NEAR(cuda["carried"][l].get<double>(), cpu["carried"][l].get<double>(), 1e-3);
    }
  }
}
#endif

// --- The program --------------------------------------------------------------------------------

TEST_F(Paths, OfAProgramsModel) {
  const std::string size = " --length 24 --depth 4 --channels 4 --kernel-size 3 --device cpu ";
  const auto call = [&](const std::string& line, const harness::Words& more) {
    return run_program("localization", with(words(line + size), more));
  };
  ASSERT_EQ(call("train --iterations 20 --batch 2", {"--out", folder_ / "run"}).code, 0);
  const std::string model = folder_ / "run/model.safetensors", out = folder_ / "paths";
  const harness::Words arguments = {"--sequences", "3", "--model", model, "--out", out};
  EXPECT_EQ(call("paths --check", arguments).code, 0);
  EXPECT_FALSE(std::filesystem::exists(out));
  const auto first = call("paths", arguments);
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_TRUE(harness::has(first.out, "norm instance, what lies outside changes index 13 by "));
  const std::string summary = content_of(out + "/summary.json");
  EXPECT_EQ(call("paths", arguments).out, out + ": done already, see summary.json\n");
  EXPECT_EQ(content_of(out + "/summary.json"), summary);

  const auto refused = [&](const std::string& line, const harness::Words& more,
                           const std::string& message) {
    harness::expect_refusal(call(line, more), "localization", 2, message);
  };
  refused("paths", with(arguments, {"--index", "25"}), "--index 25: expected at most --length 24");
  refused("paths", with(arguments, {"--seed", "1"}),
          out + " holds a run with other settings (seed is 0 there, 1 here); choose another --out");
  refused("paths", with(arguments, {"--norm", "none"}),
          model + ": a network with --norm instance, where the run has --norm none");
  ASSERT_EQ(call("train --iterations 20 --batch 2 --seed 1", {"--out", folder_ / "other"}).code, 0);
  const std::string other = folder_ / "other/model.safetensors";
  refused("paths", {"--sequences", "3", "--model", other, "--out", out},
          out + " holds a run of another model than " + other + "; choose another --out");
  refused("paths", {"--out", out}, "--model is required (see --help)");
}

}  // namespace
}  // namespace sidechannel::experiments
