// The localization experiment of the paper's Section 3.1: train a network, train probes on its
// layers, and map which indices each layer can tell apart.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <string>

#include "engine/finite.h"
#include "engine/io/npy.h"
#include "engine/io/output_file.h"
#include "engine/say.h"
#include "experiments/localization/localize.h"
#include "experiments/localization/memory.h"
#include "experiments/localization/paths.h"
#include "experiments/localization/training.h"
#include "experiments/run/beginning.h"
#include "experiments/run/flags.h"
#include "experiments/run/interrupt.h"
#include "experiments/run/program.h"
#include "experiments/run/progress.h"
#include "experiments/run/summary.h"

namespace sidechannel::experiments {
namespace {

using Phases = LocalizationPhases;

struct Arguments {
  RunFlags run;
  std::string model;
  std::string from;
  std::string input;
  std::string output;
};

int run(const Arguments& arguments, Phases phases) {
  auto settings = resolve<LocalizationSettings>(arguments.run);
  const MemoryNeed memory = memory_of(settings, phases);
  const Device device = choose_device(settings, arguments.run.check);
  const std::filesystem::path out =
      arguments.run.out.empty()
          ? default_folder(settings.preset, fmt::format("{}-seed{}", settings.norm, settings.seed))
          : arguments.run.out;
  const std::string where = out.string();
  require_memory(memory, device);
  require(arguments.from.empty() || arguments.model.empty(),
          "--from: has no effect with --model, which is not trained");
  Json origin = origin_of(arguments.from);
  std::unique_ptr<Network> from;
  if (!arguments.from.empty()) from = given_model(settings, device, arguments.from);
  if (!arguments.model.empty()) {
    origin[kGivenModel] = arguments.model;
    given_model(settings, device, arguments.model);  // before a folder is made for it
  }
  const Json described = beginning_with(arguments.from, to_json(settings));
  const Resume resume = arguments.run.resume_policy();
  const std::vector<Growth> growth = growth_of(settings);
  // What an earlier phase trains does not grow where this call leaves that out.
  const std::ptrdiff_t left_out = phases == Phases::kProbe ? 1 : phases == Phases::kMap ? 2 : 0;
  require_folder_for(out, described, resume, do_not_matter(),
                     std::vector<Growth>(growth.begin() + left_out, growth.end()));
  if (arguments.run.check) {
    say("{}\n", checked_memory(memory, device.is_cuda()));
    return 0;
  }
  RunFolder folder(out, described, device, resume, do_not_matter(), origin, growth);
  if (phases == Phases::kAll && arguments.model.empty() && folder.has("summary.json") &&
      folder.has(kInitialModelFile) && fault_of_localization(folder.path()).empty()) {
    say("{}: done already, see summary.json\n", where);
    return 0;
  }
  const Json summary =
      run_localization(settings, folder, device, phases, arguments.model, from.get());
  if (phases == Phases::kTrain) {
    say("trained: {}/model.safetensors\n", where);
  } else if (phases == Phases::kProbe) {
    say("probes: {}/probes.safetensors\n", where);
  } else {
    say("{}: norm {}, interior slope {}, localized {} of all indices at the output\n", where,
        settings.norm, three_digits(summary["interior_slope"]),
        three_digits(summary["localized_fraction"].back()));
  }
  return 0;
}

// Which norms of a trained network carry what its receptive fields do not hold.
int paths(const Arguments& arguments) {
  auto settings = resolve<PathsSettings>(arguments.run);
  const Device device = choose_device(settings, arguments.run.check);
  const std::filesystem::path out =
      arguments.run.out.empty()
          ? default_folder(settings.preset, fmt::format("{}-paths", settings.norm))
          : arguments.run.out;
  const MemoryNeed memory = memory_of_paths(settings, device.is_cuda());
  require_memory(memory, device);
  const std::unique_ptr<Network> given = given_model(settings, device, arguments.model);
  const auto& network = dynamic_cast<const Localizer&>(*given);
  const Json described = to_json(PathsSettings::flags(), settings);
  if (arguments.run.check) {
    require_folder_for(out, described, arguments.run.resume_policy());
    say("{}\n", checked_memory(memory, device.is_cuda()));
    return 0;
  }
  RunFolder folder(out, described, device, arguments.run.resume_policy(), do_not_matter(),
                   Json::object({{kGivenModel, arguments.model}}));
  keep_model(folder, network, arguments.model);
  if (folder.has("summary.json")) {  // which is written last
    say("{}: done already, see summary.json\n", out.string());
    return 0;
  }
  const Json summary = measure_paths(settings, network, folder);
  say("{}: norm {}, what lies outside changes index {} by {} (rms), with all statistics fixed by "
      "{}\n",
      out.string(), settings.norm, summary["index"].get<std::int64_t>(),
      three_digits(summary["rms_change"]),
      number_text(summary["largest_change_all_fixed"].get<double>(), 3));
  return 0;
}

// Says on stderr that the input, as the network takes it, holds such values. False where not.
bool tell_not_finite(const std::string& source, const HostArray& x) {
  const auto values = x.as<float>();
  const auto count = std::ranges::count_if(values, [](float v) { return !std::isfinite(v); });
  if (count == 0) return false;
  note(
      "localization: {}: {} of {} values are NaN, infinite or beyond f32, the first is {}; "
      "predictions that depend on them are NaN too\n",
      source, count, values.size(), first_not_finite(x));
  return true;
}

// The network in the file, which must be the one that flags describe where they do.
Localizer described_model(const Arguments& arguments, const Device& device,
                          LocalizationSettings& settings) {
  const Json& given = arguments.run.given;
  Localizer network = load_model(arguments.model, device, given.value("norm", ""), settings.groups,
                                 settings.samples_per_set, padding_from(settings.padding));
  const LocalizerConfig& config = network.config();
  const auto same = [&](const char* name, const Json& theirs) {
    require_same(given, name, theirs, arguments.model);
  };
  settings.norm = name_of(config.norm);
  same("norm", settings.norm);
  same("padding", name_of(config.padding));
  check_effects(given, settings);
  same("groups", config.groups);
  same("samples_per_set", config.samples_per_set);
  return network;
}

int predict(const Arguments& arguments) {
  LocalizationSettings settings;
  apply(arguments.run.given, "", settings);
  const Device device = choose_device(settings);
  const Localizer network = described_model(arguments, device, settings);
  const Statistics statistics = settings.evaluation_statistics();
  require_apart("--output", arguments.output, {arguments.model, arguments.input});
  const Shape shape = npy_header(arguments.input).shape;  // the rest may be larger than the memory
  SC_CHECK(shape.rank() == 2 && shape.size() > 0,
           "{}: expected an array [n, l] of n sequences, got shape {}", arguments.input,
           shape.str());
  if (const std::int64_t of = network.config().samples_per_set;
      network.config().norm == NormKind::kBatch && statistics != Statistics::kPopulation) {
    SC_CHECK(shape[0] % of == 0,
             "{}: {} sequences, expected a multiple of the {} that share their statistics "
             "(--samples-per-set of the network)",
             arguments.input, shape[0], of);
  }
  require_memory(
      memory_of(network.config(), static_cast<double>(shape[0]), static_cast<double>(shape[1])),
      device);
  const HostArray x = converted(read_npy(arguments.input), DType::kF32);
  const bool told = tell_not_finite(arguments.input, x);
  const Tensor sequences = Tensor::from(device, x).reshape({shape[0], shape[1], 1});
  Tape tape(device);
  const NoGrad frozen(tape);
  Var y;
  const auto run = [&] { y = network(tape.constant(sequences), statistics); };
  run();
  HostArray predictions = y.value().to_host();
  predictions.shape = shape;
  const std::string value = told ? "" : first_not_finite(predictions);
  SC_CHECK(value.empty(), "{}: the prediction is {}; first {}", arguments.input, value,
           first_not_finite(tape, {&network.parameters()}, run));
  write_output(arguments.output, serialize_npy(predictions));
  return 0;
}

int main_program(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{
      "Trains a one-dimensional convolutional network to say where in a sequence of noise "
      "each index lies,\nand maps which indices it can tell apart (the paper's Section "
      "3.1)."};
  app.require_subcommand(1);
  CLI::App* train = app.add_subcommand("train", "train the network");
  CLI::App* probe = app.add_subcommand("probe", "train probes on a trained network's layers");
  CLI::App* map = app.add_subcommand("map", "test which indices are localized, layer by layer");
  CLI::App* all = app.add_subcommand("run", "train, probe and map in turn");
  for (CLI::App* command : {train, probe, map, all}) {
    add_run_flags(*command, all_settings<LocalizationSettings>(), "runs/PRESET-NORM-seedN",
                  arguments.run);
  }
  for (CLI::App* command : {train, all}) add_from_flag(*command, arguments.from);
  for (CLI::App* command : {probe, map, all}) {
    command->add_option("--model", arguments.model, "weights to use instead of training");
  }
  CLI::App* through = app.add_subcommand(
      "paths", "measure which norms carry what lies outside the receptive field");
  add_run_flags(*through, PathsSettings::flags(), "runs/PRESET-NORM-paths", arguments.run);
  through->add_option("--model", arguments.model, "weights, .safetensors")->required();
  CLI::App* apply = app.add_subcommand("predict", "run a saved network on your own input");
  apply->add_option("--model", arguments.model, "weights, .safetensors")->required();
  apply->add_option("--input", arguments.input, "sequences [n, l], .npy, of any numbers")
      ->required();
  apply
      ->add_option("--output", arguments.output,
                   "predictions [n, l], .npy, f32; - for standard output")
      ->required();
  add_setting_flags(
      *apply, settings_that<LocalizationSettings>([](const Setting& s) { return s.predicts; }),
      arguments.run.given);
  CLI::App* settings = app.add_subcommand("settings", "print what a preset and flags come to");
  add_preset_flags(*settings, all_settings<LocalizationSettings>(), arguments.run);
  if (const std::optional<int> code = parse(app, argc, argv)) return *code;
  if (*settings) return print_settings<LocalizationSettings>(arguments.run);
  if (*train) return run(arguments, Phases::kTrain);
  if (*probe) return run(arguments, Phases::kProbe);
  if (*map) return run(arguments, Phases::kMap);
  if (*all) return run(arguments, Phases::kAll);
  if (*through) return paths(arguments);
  return predict(arguments);
}

}  // namespace
}  // namespace sidechannel::experiments

int main(int argc, char** argv) {
  using namespace sidechannel::experiments;
  return run_main("localization", main_program, argc, argv);
}
