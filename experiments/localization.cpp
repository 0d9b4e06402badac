// The localization experiment of the paper's Section 3.1: train a network, train probes on its
// layers, and map which indices each layer can tell apart.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string>

#include "engine/npy.h"
#include "experiments/build_info.h"
#include "experiments/device_choice.h"
#include "experiments/interrupt.h"
#include "experiments/probing.h"
#include "experiments/run_folder.h"
#include "experiments/settings.h"
#include "experiments/training.h"

namespace sidechannel::experiments {
namespace {

// What the command line says, before it is laid over a preset.
struct Arguments {
  std::string preset = "demo";
  std::map<std::string, std::string> given;  // setting -> value, as typed
  std::string out;
  std::string resume = "auto";
  std::string model;
  std::string input;
  std::string output;
};

std::string flag_of(std::string name) {
  std::replace(name.begin(), name.end(), '_', '-');
  return "--" + name;
}

void add_settings(CLI::App& app, Arguments& arguments) {
  app.add_option("--preset", arguments.preset, "demo, small, paper, or a JSON file")
      ->capture_default_str();
  app.add_option("--out", arguments.out, "folder of the run (default: runs/PRESET-NORM-seedN)");
  app.add_option("--resume", arguments.resume,
                 "auto (continue what is there), only (fail when nothing is), never (fail when "
                 "something is)")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "only", "never"}));
  for_each_setting(Settings(), [&](const char* name, const auto& value, const char* help) {
    using T = std::decay_t<decltype(value)>;
    CLI::Option* option = app.add_option_function<T>(
        flag_of(name),
        [&arguments, name](const T& given) { arguments.given[name] = fmt::format("{}", given); },
        help);
    option->take_last();  // of a flag given twice, so that scripts can append
    option->type_name(std::is_same_v<T, std::string> ? "TEXT"
                      : std::is_same_v<T, double>    ? "NUMBER"
                                                     : "N");
  });
}

// Preset, then the preset's choices for the kind of norm, then flags.
Settings resolve(const Arguments& arguments) {
  const auto norm = arguments.given.find("norm");
  Settings settings =
      settings_from_preset(arguments.preset, norm == arguments.given.end() ? "" : norm->second);
  for_each_setting(settings, [&](const char* name, auto& member, const char*) {
    const auto found = arguments.given.find(name);
    if (found == arguments.given.end()) return;
    using T = std::decay_t<decltype(member)>;
    if constexpr (std::is_same_v<T, std::string>) {
      member = found->second;
    } else if constexpr (std::is_same_v<T, double>) {
      member = std::stod(found->second);
    } else {
      member = std::stoll(found->second);
    }
  });
  settings.check();
  return settings;
}

std::filesystem::path out_folder(const Arguments& arguments, const Settings& settings) {
  if (!arguments.out.empty()) return arguments.out;
  const std::string preset = std::filesystem::path(settings.preset).stem().string();
  return fmt::format("runs/{}-{}-seed{}", preset, settings.norm, settings.seed);
}

// The phases of a run, each of which needs the one before.
enum class UpTo { kTraining, kProbes, kMap };

int run(const Arguments& arguments, UpTo last, bool only_last) {
  Settings settings = resolve(arguments);
  const Device device = choose_device(settings);
  const Resume resume = arguments.resume == "only"    ? Resume::kOnly
                        : arguments.resume == "never" ? Resume::kNever
                                                      : Resume::kAuto;
  RunFolder folder(out_folder(arguments, settings), settings, device, resume);
  const std::string where = folder.path().string();
  if (last == UpTo::kMap && !only_last && folder.has("summary.json")) {
    fmt::print("{}: done already, see summary.json\n", where);
    return 0;
  }
  catch_interrupts();

  Localizer network(device, DType::kF32, settings.network(),
                    static_cast<std::uint64_t>(settings.seed));
  double seconds = 0;
  if (!arguments.model.empty()) {
    network = load_model(arguments.model, device, settings.norm, settings.groups,
                         settings.samples_per_set);
    SC_CHECK(network.config().depth == settings.depth &&
                 network.config().channels == settings.channels &&
                 network.config().norm == settings.network().norm,
             "{}: a network of depth {}, {} channels and {} norm, not the one that was asked for "
             "(depth {}, {} channels, {} norm)",
             arguments.model, network.config().depth, network.config().channels,
             name_of(network.config().norm), settings.depth, settings.channels, settings.norm);
  } else if (only_last && last != UpTo::kTraining) {
    SC_CHECK(folder.has("model.safetensors"),
             "{} has no model.safetensors yet; run `localization train` first, or give --model",
             where);
    network = load_model(folder.file("model.safetensors"), device);
  } else {
    const TrainingResult result = train(settings, network, folder);
    seconds += result.seconds;
    if (!result.notice.empty()) fmt::print(stderr, "{}\n", result.notice);
    if (last == UpTo::kTraining) fmt::print("trained: {}/model.safetensors\n", where);
  }
  if (last == UpTo::kTraining) return 0;

  Probes probes(settings, device);
  if (only_last && last == UpTo::kMap) {
    SC_CHECK(folder.has("probes.safetensors"),
             "{} has no probes.safetensors yet; run `localization probe` first", where);
  }
  seconds += train_probes(settings, network, probes, folder);
  if (last == UpTo::kProbes) {
    fmt::print("probes: {}/probes.safetensors\n", where);
    return 0;
  }
  seconds += make_map(settings, network, probes, folder);
  const nlohmann::ordered_json summary = summarize(settings, folder, seconds);
  folder.write_json("summary.json", summary);
  fmt::print("{}: norm {}, interior slope {}, localized {} of all indices at the output\n", where,
             settings.norm, summary["interior_slope"].dump(),
             summary["localized_fraction"].back().dump());
  return 0;
}

int predict(const Arguments& arguments) {
  const auto given = [&](const char* name, const std::string& otherwise) {
    const auto found = arguments.given.find(name);
    return found == arguments.given.end() ? otherwise : found->second;
  };
  Settings settings;
  settings.eval_statistics = given("eval_statistics", "minibatch");
  settings.device = given("device", "auto");
  settings.precision = given("precision", "auto");
  settings.threads = std::stoll(given("threads", "0"));
  const Device device = choose_device(settings);
  const Localizer network =
      load_model(arguments.model, device, given("norm", ""), std::stoll(given("groups", "1")),
                 std::stoll(given("samples_per_set", "1")));
  settings.norm = name_of(network.config().norm);
  const Statistics statistics = settings.evaluation_statistics();
  const HostArray input = read_npy(arguments.input);
  SC_CHECK(input.dtype == DType::kF32 || input.dtype == DType::kF64,
           "{}: holds {}, expected f32 or f64", arguments.input, sidechannel::name_of(input.dtype));
  SC_CHECK(input.shape.rank() == 2 && input.shape.size() > 0,
           "{}: expected an array [n, l] of n sequences, got shape {}", arguments.input,
           input.shape.str());
  HostArray x(DType::kF32, {input.shape[0], input.shape[1], 1});
  if (input.dtype == DType::kF32) {
    x.bytes = input.bytes;
  } else {
    const auto from = input.as<double>();
    std::transform(from.begin(), from.end(), x.as<float>().begin(),
                   [](double value) { return static_cast<float>(value); });
  }
  Tape tape(device);
  const NoGrad frozen(tape);
  HostArray y = network(tape.constant(Tensor::from(device, x)), statistics).value().to_host();
  y.shape = input.shape;
  write_npy(arguments.output, y);
  return 0;
}

int main_program(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{
      "Trains a one-dimensional convolutional network to say where in a sequence of noise "
      "each index lies,\nand maps which indices it can tell apart (the paper's Section "
      "3.1)."};
  app.set_version_flag("--version", [] {
    const BuildInfo build = build_info();
    return fmt::format("sidechannel {} ({}{}), {}, {}", build.version, build.commit,
                       build.modified ? ", modified" : "", build.compiler, build.flags);
  });
  app.require_subcommand(1);
  CLI::App* train = app.add_subcommand("train", "train the network");
  CLI::App* probe = app.add_subcommand("probe", "train probes on a trained network's layers");
  CLI::App* map = app.add_subcommand("map", "test which indices are localized, layer by layer");
  CLI::App* all = app.add_subcommand("run", "train, probe and map in turn");
  for (CLI::App* command : {train, probe, map, all}) add_settings(*command, arguments);
  for (CLI::App* command : {probe, map, all}) {
    command->add_option("--model", arguments.model, "weights to use instead of training");
  }
  CLI::App* apply = app.add_subcommand("predict", "run a saved network on your own input");
  apply->add_option("--model", arguments.model, "weights, .safetensors")->required();
  apply->add_option("--input", arguments.input, "sequences [n, l], .npy, f32 or f64")->required();
  apply->add_option("--output", arguments.output, "predictions [n, l], .npy, f32")->required();
  for (const char* name :
       {"norm", "groups", "samples_per_set", "eval_statistics", "device", "precision", "threads"}) {
    apply->add_option_function<std::string>(
        flag_of(name),
        [&arguments, name](const std::string& value) { arguments.given[name] = value; },
        "as for `run`");
  }

  constexpr const char* kCommands = "train, probe, map, run or predict (see --help)";
  if (argc < 2) throw UsageError(fmt::format("expected a command: {}", kCommands));
  const std::string first = argv[1];
  const auto subcommands = app.get_subcommands([](CLI::App*) { return true; });
  if (!first.starts_with('-') &&
      std::none_of(subcommands.begin(), subcommands.end(),
                   [&](const CLI::App* known) { return known->get_name() == first; })) {
    throw UsageError(fmt::format("there is no command {}: expected {}", first, kCommands));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    return app.exit(CLI::CallForHelp());
  } catch (const CLI::CallForVersion& version) {
    return app.exit(version);
  } catch (const CLI::ParseError& error) {
    throw UsageError(fmt::format("{} (see --help)", error.what()));
  }
  if (*train) return run(arguments, UpTo::kTraining, true);
  if (*probe) return run(arguments, UpTo::kProbes, true);
  if (*map) return run(arguments, UpTo::kMap, true);
  if (*all) return run(arguments, UpTo::kMap, false);
  return predict(arguments);
}

}  // namespace
}  // namespace sidechannel::experiments

int main(int argc, char** argv) {
  using namespace sidechannel::experiments;
  const std::string missing = missing_cpu_features();
  if (!missing.empty()) {
    fmt::print(stderr,
               "localization: this CPU lacks {}; build again on it, or with "
               "-DSIDECHANNEL_ARCH=x86-64-v3\n",
               missing);
    return 1;
  }
  try {
    return main_program(argc, argv);
  } catch (const Interrupted&) {
    return kExitInterrupted;
  } catch (const sidechannel::UsageError& error) {
    fmt::print(stderr, "localization: {}\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    fmt::print(stderr, "localization: {}\n", error.what());
    return 1;
  }
}
