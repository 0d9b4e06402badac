#include "experiments/diffusion/settings.h"
#include "experiments/leak/settings.h"
#include "experiments/localization/settings.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>

#include "experiments/localization/paths.h"
#include "experiments/overlap/settings.h"
#include "experiments/run/flags.h"
#include "experiments/sweep/plan.h"
#include "tests/experiments/settings_check.h"
#include "tests/harness/program.h"

namespace sidechannel::experiments {
namespace {

TEST(Settings, PresetsMakeSenseForEveryNorm) {
  for (const char* preset : {"demo", "small", "paper"}) {
    for (const char* norm : norm_names()) {
      const LocalizationSettings settings =
          settings_from_preset<LocalizationSettings>(preset, norm);
      EXPECT_NO_THROW(settings.check()) << preset << " " << norm;
      EXPECT_EQ(settings.norm, norm);
    }
  }
}

TEST(Settings, ThePaperPresetIsAppendixE) {
  const LocalizationSettings paper =
      settings_from_preset<LocalizationSettings>("paper", "instance");
  expect_settings(to_json(paper), R"({"length": 600, "channels": 64, "iterations": 100000,
      "batch": 32, "learning_rate": 1e-4, "probe_width": 256, "probe_iterations": 5000,
      "map_samples": 3200000, "p_threshold": 0.1})");
  EXPECT_EQ(paper.localizer().receptive_field(), 64);
  EXPECT_EQ(paper.probe_rate().base, 1e-3);
  EXPECT_EQ(paper.probe_rate().schedule, kernels::LearningRate::Schedule::kConstant);
  expect_settings(to_json(settings_from_preset<LocalizationSettings>("paper", "batch")),
                  R"({"length": 250, "samples_per_set": 4, "iterations": 500000})");
}

// docs/paper.md: the other readings are these flags, and no code.
TEST(Settings, TheOtherReadingsOfAppendixEAreFlags) {
  // 32 hidden layers, each with a probe, and C_out: one convolution more. The last hidden layer
  // then sees as far as the paper's R(32) = 64.
  RunFlags flags;
  flags.preset = "paper";
  EXPECT_EQ(resolve<LocalizationSettings>(flags).probed_layers().size(), 31u);
  flags.given = {{"depth", 33}};
  const auto deeper = resolve<LocalizationSettings>(flags);
  ASSERT_EQ(deeper.probed_layers().size(), 32u);
  EXPECT_EQ(deeper.probed_layers().back(), 32);
  EXPECT_EQ(deeper.localizer().receptive_field(32), 64);
  EXPECT_EQ(deeper.localizer().receptive_field(), 66);
  const Localizer network(Device::cpu(1), DType::kF32, deeper.localizer(), 0);
  std::vector<Var> hidden;
  Tape tape(Device::cpu(1));
  network(tape.constant(Tensor::zeros(Device::cpu(1), DType::kF32, {1, 9, 1})),
          Statistics::kMinibatch, &hidden);
  EXPECT_EQ(hidden.size(), 32u);

  // 5 * 10^5 micro-batches of 4 sequences, 8 to a step.
  flags.given = {{"norm", "batch"}};
  const auto steps = resolve<LocalizationSettings>(flags);
  flags.given["iterations"] = 62'500;
  const auto micro = resolve<LocalizationSettings>(flags);
  EXPECT_EQ(steps.iterations, 500'000);
  EXPECT_EQ(micro.iterations * micro.batch / micro.samples_per_set, 500'000);
  EXPECT_EQ(differences(to_json(micro), to_json(steps)), std::vector<std::string>{"iterations"});
}

TEST(Settings, FilesSayWhatIsWrong) {
  const harness::TemporaryFolder folder;
  const auto error_of = [&](const std::string& text) {
    std::ofstream(folder / "p.json") << text;
    const std::string message =
        usage_error([&] { settings_from_preset<LocalizationSettings>(folder / "p.json"); });
    return message.substr(message.find("p.json"));
  };
  const std::string length = "expected a whole number from 1 to 1000000";
  EXPECT_EQ(error_of(R"({"length": "long"})"), R"(p.json: length "long": )" + length);
  for (const char* value :
       {"1.5", "0", "-1", "1e3", "true", "null", "1000001", "9223372036854775807",
        "18446744073709551615", "18446744073709551617", "1e300"}) {
    const std::string message = error_of(fmt::format(R"({{"length": {}}})", value));
    EXPECT_TRUE(message.starts_with("p.json: length ") && message.ends_with(": " + length))
        << message;
  }
  EXPECT_EQ(error_of(R"({"lenght": 64})"), "p.json: there is no setting lenght");
  EXPECT_EQ(error_of("{"), "p.json: expected JSON, got its end at line 1, column 2");
  EXPECT_EQ(error_of("[]"), "p.json: expected a JSON object, got an empty list");
  EXPECT_NE(error_of(R"({"length": 8, "length": 9})").find("length"), std::string::npos);
  EXPECT_EQ(usage_error([] { settings_from_preset<LocalizationSettings>("huge"); }),
            "--preset huge: expected demo, small, paper or a .json file");
  // What stands there for other kinds than the one that is taken.
  const auto kinds = [&](const char* text) {
    return error_of(fmt::format(R"({{"norm": "none", "for_norm": {}}})", text));
  };
  EXPECT_EQ(
      kinds(R"({"instnace": {}})"),
      R"(p.json: for_norm: norm "instnace": expected none, instance, group, group_population, layer, position, rms or batch)");
  EXPECT_EQ(kinds(R"({"group": {"grups": 4}})"),
            "p.json: for_norm group: there is no setting grups");
  EXPECT_EQ(kinds(R"({"group": {"groups": 0}})"),
            "p.json: for_norm group: groups 0: expected a whole number from 1 to 16384");
  EXPECT_EQ(kinds("3"), "p.json: for_norm 3: expected an object of kinds of norm");
  EXPECT_EQ(kinds(R"({"group": {"for_norm": {}}})"),
            "p.json: for_norm group: there is no setting for_norm");
  for (const char* text : {R"({"group": 3})", R"({"group": {"norm": "none"}})"}) {
    EXPECT_EQ(kinds(text),
              "p.json: for_norm group: expected an object of other settings than norm");
  }
  std::ofstream(folder / "p.json")
      << "{\"length\": 32, \"for_norm\": {\"none\": {\"length\": 16}}}";
  EXPECT_EQ(settings_from_preset<LocalizationSettings>(folder / "p.json", "instance").length, 32);
  EXPECT_EQ(settings_from_preset<LocalizationSettings>(folder / "p.json", "none").length, 16);
}

TEST(Settings, ImpossibleValuesAreRefusedInWords) {
  using S = LocalizationSettings;
  const struct {
    std::function<void(S&)> change;
    const char* message;
  } cases[] = {
      {[](S& s) { s.kernel_size = 4; }, "--kernel-size 4: expected an odd number from 1 to 999"},
      {[](S& s) { s.length = 0; }, "--length 0: expected a whole number from 1 to 1000000"},
      {[](S& s) { s.depth = 1; }, "--depth 1: expected a whole number from 2 to 1000"},
      {[](S& s) { s.norm = "bath"; },
       "--norm bath: expected none, instance, group, group_population, layer, position, rms or "
       "batch"},
      {[](S& s) { s.norm = "group", s.groups = 5; },
       "--groups 5: expected a divisor of --channels 32"},
      {[](S& s) { s.network = "unet", s.probes = "none", s.channels = 7; },
       "--channels 7: expected an even number from 4 on"},
      {[](S& s) { s.network = "unet", s.probes = "none", s.norm = "group", s.groups = 5; },
       "--groups 5: expected a divisor of the 32 channels of level 0"},
      {[](S& s) { s.network = "unet", s.probes = "none", s.multipliers = "2,4"; },
       "--multipliers 2,4: expected 1 first, and at most 16 of them"},
      {[](S& s) { s.network = "unet", s.probes = "none", s.length = 33; },
       "--length 33: expected a multiple of 2 for --multipliers 1,2"},
      {[](S& s) { s.norm = "batch", s.samples_per_set = 3; },
       "--batch 8: expected a multiple of --samples-per-set 3"},
      {[](S& s) { s.eval_statistics = "population"; },
       "--eval-statistics population: instance norm has no running statistics"},
      {[](S& s) { s.eval_statistics = "some"; },
       "--eval-statistics some: expected minibatch or population"},
      {[](S& s) { s.schedule = "cosine"; }, "--schedule cosine: expected constant or tail"},
      {[](S& s) { s.probe_schedule = "step"; }, "--probe-schedule step: expected constant or tail"},
      {[](S& s) { s.precision = "fp16"; }, "--precision fp16: expected auto, fp32 or tf32"},
      {[](S& s) { s.p_threshold = 1; }, "--p-threshold 1: expected a number above 0 and below 1"},
      {[](S& s) { s.learning_rate = 0; },
       "--learning-rate 0: expected a number of at least 1e-30 and at most 1e+30"},
      {[](S& s) { s.iterations = std::int64_t{1} << 32; },
       "--iterations 4294967296: expected a whole number from 1 to 4294967295"},
      {[](S&) {}, ""},
  };
  for (const auto& [change, message] : cases) {
    S settings = settings_from_preset<S>("demo");
    change(settings);
    EXPECT_EQ(usage_error([&] { settings.check(); }), message);
  }
}

TEST(Settings, OnlyWhatResultsDependOnCountsAsADifference) {
  const LocalizationSettings settings = settings_from_preset<LocalizationSettings>("demo");
  LocalizationSettings other = settings;
  other.threads = 1;
  other.device = "cpu";
  other.checkpoint_every = 7;
  EXPECT_TRUE(differences(to_json(settings), to_json(other)).empty());
  other.learning_rate = 1;
  other.seed = 3;
  EXPECT_EQ(differences(to_json(settings), to_json(other)),
            (std::vector<std::string>{"learning_rate", "seed"}));
}

TEST(Settings, NumbersAreDecimalAndNothingElse) {
  for (const char* text : {"", " ", "010", "00", "-01", "0x10", "+5", " 5", "5 ", "5\n", "1e3",
                           "1.0", "one", "--1", "9223372036854775808", "18446744073709551616"}) {
    EXPECT_EQ(whole_number(text), std::nullopt) << text;
  }
  for (const char* text : {"", "inf", "-inf", "nan", "NaN", "1e400", "-1e400", "1e-400", "0x1p3",
                           "+1", "1,5", "01.5", " 1", "1 ", "1e", "e1", "."}) {
    EXPECT_EQ(real_number(text), std::nullopt) << text;
  }
  EXPECT_EQ(whole_number("0"), 0);
  EXPECT_EQ(whole_number("-10"), -10);
  EXPECT_EQ(whole_number("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(real_number("2e-3"), 2e-3);
  EXPECT_EQ(real_number(".5"), 0.5);
  EXPECT_EQ(real_number("-1E2"), -100);
}

// No value of any setting is taken beyond its domain, by any way in. (Those of `sweep` are
// the programs', and lists of them: SweepAxis.*)
template <class S>
class EveryDomain : public testing::Test {};
using AllSettings = testing::Types<LocalizationSettings, PathsSettings, OverlapSettings,
                                   DiffusionSettings, LeakSettings>;
TYPED_TEST_SUITE(EveryDomain, AllSettings);

TYPED_TEST(EveryDomain, HoldsForFlagsAndFiles) {
  using S = TypeParam;
  const S defaults;
  for (const Setting& setting : all_settings<S>()) {
    setting.visit([&]<class T>(const auto& domain, T RunSettings::*member) {
      EXPECT_TRUE(domain.holds(defaults.*member)) << setting.name;
      const auto refused = [&](const std::string& text, const Json& json) {
        const std::string said = usage_error([&] { read_flag(setting, "--x", text); });
        EXPECT_TRUE(said.starts_with("--x ") && said.ends_with(": expected " + domain.words()))
            << setting.name << " " << text << ": " << said;
        S settings;
        Json one;
        one[setting.name] = json;
        EXPECT_NE(usage_error([&] { apply(one, "p.json", settings); }), "")
            << setting.name << " " << text;
        // And where a member is set by hand.
        if (const auto value = value_of<T>(json)) {
          settings.*member = *value;
          EXPECT_NE(usage_error([&] { check_domains(all_settings<S>(), settings); }), "")
              << setting.name << " " << text;
        }
      };
      if constexpr (std::is_same_v<T, std::int64_t>) {
        refused(std::to_string(domain.least - 1), domain.least - 1);
        if (domain.most < INT64_MAX) refused(std::to_string(domain.most + 1), domain.most + 1);
        refused("1.5", 1.5);
        refused("01", "1");
      } else if constexpr (std::is_same_v<T, double>) {
        refused("-1", -1);
        refused("1e31", 1e31);
        refused("nan", Json());
      } else {
        refused("nothing of it", "nothing of it");
        refused(" ", 3);
      }
    });
  }
}

// A setting is its one declaration: nothing else names it but what it is for.
struct OneMore : LocalizationSettings {
  using Self = OneMore;
  SETTING(double, label_noise, 0.5, "noise of the targets", Real{0, 1, true},
          OnlyWhen{"--input noise", &Self::hears});
  bool hears() const { return input == "noise"; }
};

TEST(Settings, OneMoreIsOneDeclaration) {
  OneMore settings;
  EXPECT_EQ(to_json(settings)["label_noise"], 0.5);
  apply({{"label_noise", 0.25}}, "p.json", settings);
  EXPECT_EQ(settings.label_noise, 0.25);
  EXPECT_EQ(usage_error([&] {
              apply({{"label_noise", 2}}, "", settings);
            }),
            "--label-noise 2: expected a number of at least 0 and at most 1");
  RunFlags flags;
  flags.given = {{"input", "constant"}, {"label_noise", 0.1}};
  EXPECT_EQ(usage_error([&] { resolve<OneMore>(flags); }),
            "--label-noise 0.1: has no effect without --input noise");
}

TEST(Settings, WhatHasNoEffectIsRefusedWhereItIsGivenAndNotInAPreset) {
  const auto error_of = [](Json given) {
    RunFlags flags;
    flags.given = std::move(given);
    return usage_error([&] { resolve<LocalizationSettings>(flags); });
  };
  EXPECT_EQ(error_of({{"groups", 4}}),
            "--groups 4: has no effect without --norm group or group_population");
  EXPECT_EQ(error_of({{"norm", "group"}, {"groups", 4}}), "");
  EXPECT_EQ(error_of({{"samples_per_set", 2}}),
            "--samples-per-set 2: has no effect without --norm batch");
  EXPECT_EQ(error_of({{"curriculum_length", 32}}),
            "--curriculum-length 32: has no effect without --curriculum-iterations");
  EXPECT_EQ(error_of({{"probes", "none"}, {"probe_schedule", "tail"}}),
            "");  // as scripts append it
  EXPECT_EQ(error_of({{"curriculum_iterations", 5}}),
            "--curriculum-length 0: expected at least 1 for a curriculum");
  EXPECT_EQ(error_of({{"iterations", kMostSteps},
                      {"curriculum_iterations", 5},
                      {"curriculum_length", 32},
                      {"curriculum_learning_rate", 1e-3}}),
            "--iterations 4294967295: with --curriculum-iterations 5 more than 4294967295 in all");
}

static_assert(kMostCells == 10'000);  // as this page says
const char* kPage = R"(# The command line

What the programs' commands and flags are, and what settings may be, which is checked before anything
is made. `PROGRAM COMMAND --help` says the same in a terminal, with examples. This page is made of the
programs' own lists, by
`SIDECHANNEL_WRITE_DOCS=1 build/cpu/bin/sidechannel_tests --gtest_filter=Settings.TheDocument*`.

- **Names.** A flag may have several; of a setting that is given twice, by whichever of them, the last
  one counts. In a preset's JSON file a setting has its first name, with underscores for dashes.
- **Values.** Numbers are decimal, without leading zeros. A type in capitals stands for a value of its
  kind, and what stands between bars is meant literally.
- **Defaults.** Where they depend on the preset, they are given for each, with the norm that it has
  itself. `settings --preset PRESET --norm NORM` prints what a preset and flags come to. `predict` takes
  them from the model's file.
- **Sweeps.** `sweep`'s `--over NAME=VALUES` and `--set NAME=VALUE` take any setting of localization,
  overlap (with `overlap`, one of them, in the place of `overlaps` and `jobs`) or diffusion that results
  depend on, by any of its names. A sweep has at most 10000 cells.
- **Completion.** `completion bash` and `completion zsh` print scripts ([installing](installing.md#completion)).
- **Exit codes.** 0; 1: something failed; 2: the call makes no sense; 75: interrupted, and the same
  command goes on. What went wrong is one line on standard error.

`--quiet` leaves nothing on standard error but what went wrong. With `--json` a command that succeeds
prints one JSON object, and nothing else, to standard output:

| command | its object |
|---|---|
| `localization run`, `map` and `paths`; `overlap run` and `collect`; `diffusion run` | `folder`; `summary`, what summary.json there holds |
| `localization train`, `probe` | `folder`; the file, `model` or `probes` |
| `localization predict` | `output`, `shape` |
| `sweep collect` | `folder`; `results`, what results.json holds |
| `overlap plan`, `sweep plan` and `run` | `folder`, the number of `cells` |
| `run --cell` | `cell`, its `folder`, its `result` |
| `status` | `folder`; the number of `cells`, and those that are `finished`, `running`, `interrupted`, `failed`, `waiting`; `failures`, why |
| `status --unfinished` | `unfinished`, the numbers of the cells |
| `leak measure` | the report ([leak](leak.md)) |
| `settings`, with or without `--json` | the settings |
| with `--check` | `memory` in bytes: `host`, `gpu`; `folder`, of sweeps `cells` |

)";

TEST(Settings, TheDocumentIsWhatTheProgramsSay) {
  std::string text = kPage;
  for (const char* program : {"localization", "overlap", "sweep", "leak", "diffusion"}) {
    const harness::ProgramResult reference = harness::run_program(program, {"reference"});
    EXPECT_EQ(reference.code, 0) << reference.err;
    text += (text == kPage ? "" : "\n") + reference.out;
  }
  const std::filesystem::path file = harness::test_data("../docs/cli.md");
  if (std::getenv("SIDECHANNEL_WRITE_DOCS") != nullptr) std::ofstream(file) << text;
  EXPECT_EQ(harness::content_of(file), text);
}

}  // namespace
}  // namespace sidechannel::experiments
