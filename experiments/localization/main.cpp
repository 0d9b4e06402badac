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
#include "experiments/run/help.h"
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
    return answer_check(where, checked_memory(memory, device.is_cuda()));
  }
  RunFolder folder(out, described, device, resume, do_not_matter(), origin, growth);
  if (phases == Phases::kAll && arguments.model.empty() && folder.has("summary.json") &&
      folder.has(kInitialModelFile) && fault_of_localization(folder.path()).empty()) {
    return answer({{"folder", where}, {"summary", read_summary(folder.path())}},
                  "{}: done already, see summary.json\n", where);
  }
  const Json summary =
      run_localization(settings, folder, device, phases, arguments.model, from.get());
  if (phases == Phases::kTrain) {
    const std::string model = folder.file(kModelFile).string();
    return answer({{"folder", where}, {"model", model}}, "trained: {}\n", model);
  }
  if (phases == Phases::kProbe) {
    const std::string probes = folder.file("probes.safetensors").string();
    return answer({{"folder", where}, {"probes", probes}}, "probes: {}\n", probes);
  }
  return answer({{"folder", where}, {"summary", summary}},
                "{}: norm {}, interior slope {}, localized {} of all indices at the output\n",
                where, settings.norm, three_digits(summary["interior_slope"]),
                three_digits(summary["localized_fraction"].back()));
}

// Which norms of a trained network carry what its receptive fields do not hold.
int paths(const Arguments& arguments) {
  auto settings = resolve<PathsSettings>(arguments.run);
  const Device device = choose_device(settings, arguments.run.check);
  const std::filesystem::path out =
      arguments.run.out.empty()
          ? default_folder(settings.preset, fmt::format("{}-paths", settings.norm))
          : arguments.run.out;
  const std::string where = out.string();
  const MemoryNeed memory = memory_of_paths(settings, device.is_cuda());
  require_memory(memory, device);
  const std::unique_ptr<Network> given = given_model(settings, device, arguments.model);
  const auto& network = dynamic_cast<const Localizer&>(*given);
  const Json described = to_json(PathsSettings::flags(), settings);
  if (arguments.run.check) {
    require_folder_for(out, described, arguments.run.resume_policy());
    return answer_check(where, checked_memory(memory, device.is_cuda()));
  }
  RunFolder folder(out, described, device, arguments.run.resume_policy(), do_not_matter(),
                   Json::object({{kGivenModel, arguments.model}}));
  keep_model(folder, network, arguments.model);
  if (folder.has("summary.json")) {  // which is written last
    return answer({{"folder", where}, {"summary", read_json(folder.file("summary.json"))}},
                  "{}: done already, see summary.json\n", where);
  }
  const Json summary = measure_paths(settings, network, folder);
  return answer(
      {{"folder", where}, {"summary", summary}},
      "{}: norm {}, what lies outside changes index {} by {} (rms), with all statistics fixed by "
      "{}\n",
      where, settings.norm, summary["index"].get<std::int64_t>(),
      three_digits(summary["rms_change"]),
      number_text(summary["largest_change_all_fixed"].get<double>(), 3));
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
  require(!answers_in_json || arguments.output != "-",
          "--json: standard output is that of --output -");
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
  const Json result = {{"output", arguments.output}, {"shape", {shape[0], shape[1]}}};
  return answers_in_json ? print_json(result) : 0;
}

int main_program(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{
      "Trains a one-dimensional convolutional network to say where in a sequence of noise "
      "each index lies,\nand maps which indices it can tell apart (the paper's Section "
      "3.1).",
      "localization"};
  app.require_subcommand(1);
  const Defaults defaults = defaults_of<LocalizationSettings>();
  CLI::App* train = app.add_subcommand("train", "train the network");
  CLI::App* probe = app.add_subcommand("probe", "train probes on a trained network's layers");
  CLI::App* map = app.add_subcommand("map", "test which indices are localized, layer by layer");
  CLI::App* all = app.add_subcommand("run", "train, probe and map in turn");
  for (CLI::App* command : {train, probe, map, all}) {
    add_run_flags(*command, all_settings<LocalizationSettings>(), "runs/PRESET-NORM-seedN",
                  arguments.run, defaults);
  }
  for (CLI::App* command : {train, all}) add_from_flag(*command, arguments.from);
  for (CLI::App* command : {probe, map, all}) {
    add_text_flag(*command, "--model", arguments.model, "FILE",
                  "weights to use instead of training, .safetensors");
  }
  CLI::App* through = app.add_subcommand(
      "paths", "measure which norms carry what lies outside the receptive field");
  add_run_flags(*through, PathsSettings::flags(), "runs/PRESET-NORM-paths", arguments.run,
                defaults_of<PathsSettings>());
  CLI::App* apply = app.add_subcommand("predict", "run a saved network on your own input");
  for (CLI::App* command : {through, apply}) {
    add_text_flag(*command, "--model", arguments.model, "FILE", "weights, .safetensors")
        ->required();
  }
  add_text_flag(*apply, "--input", arguments.input, "FILE",
                "sequences [n, l], .npy, of any numbers")
      ->required();
  add_text_flag(*apply, "--output", arguments.output, "FILE",
                "predictions [n, l], .npy, f32; - for standard output")
      ->required();
  add_setting_flags(
      *apply, settings_that<LocalizationSettings>([](const Setting& s) { return s.predicts; }),
      arguments.run.given);
  CLI::App* settings = app.add_subcommand("settings", "print what a preset and flags come to");
  add_preset_flags(*settings, all_settings<LocalizationSettings>(), arguments.run, defaults);
  add_examples(app,
               {"localization run --preset demo --norm instance",
                "localization settings --preset small --norm batch", "localization run --help"});
  add_examples(*train,
               {"localization train --norm instance",
                "localization train --norm group --groups 8 --lr 1e-3 --steps 2000 --out runs/mine",
                "localization train --preset small --norm none --seed 1 --device cpu"});
  add_examples(*probe, {"localization probe --norm instance",
                        "localization probe --probes last --probe-lr 3e-4 --out runs/last-probe "
                        "--model runs/demo/instance/model.safetensors"});
  add_examples(*map, {"localization map --norm instance",
                      "localization map --norm batch --eval-statistics population --probes none "
                      "--model runs/batch/model.safetensors --out runs/population"});
  add_examples(*all, {"localization run --norm instance --check",
                      "localization run --norm instance --quiet --json > result.json",
                      "localization run --preset paper --norm layer --out runs/layer",
                      "localization run --input constant --out runs/constant"});
  add_examples(*through, {"localization paths --model runs/demo/instance/model.safetensors",
                          "localization paths --model runs/demo/instance/model.safetensors "
                          "--index 20 --sequences 100 --out runs/paths-20"});
  add_examples(*apply, {"localization predict --model runs/demo/instance/model.safetensors "
                        "--input x.npy --output y.npy",
                        "localization predict --model pytorch.safetensors --norm group --groups 8 "
                        "--input x.npy --output - > y.npy"});
  add_examples(*settings, {"localization settings --preset paper --norm batch",
                           "localization settings --preset small --norm none --steps 500"});
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
