// The leak meter: how much a network hears from beyond its receptive field, and through which of
// its normalizations.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <string>
#include <tuple>

#include "engine/io/npy.h"
#include "engine/io/output_file.h"
#include "engine/say.h"
#include "experiments/leak/inputs.h"
#include "experiments/leak/measure.h"
#include "experiments/leak/memory.h"
#include "experiments/leak/settings.h"
#include "experiments/run/flags.h"
#include "experiments/run/help.h"
#include "experiments/run/program.h"
#include "experiments/run/progress.h"

namespace sidechannel::experiments {
namespace {

struct Arguments {
  Json given = Json::object();
  std::string model;
  std::string input;
  std::string out;
  bool no_layers = false;
  bool causal = false;
  bool insist = false;
  bool check = false;
};

// That what flags say of the network is what the file holds.
void check_described(const Arguments& arguments, const Network& network, LeakSettings& settings) {
  const Json& given = arguments.given;
  const auto same = [&](const char* name, const Json& theirs) {
    require_same(given, name, theirs, arguments.model);
  };
  const auto same_norm = [&](const auto& config) {
    same("norm", name_of(config.norm));
    if (info_of(config.norm).localizes) settings.norm = name_of(config.norm);
    check_effects(given, settings);
    same("groups", config.groups);
    same("samples_per_set", config.samples_per_set);
  };
  const auto refuse = [&](const char* name, const char* what) {
    require(!given.contains(name),
            fmt::format("{} {}: {} holds no {}", flag_of(name),
                        flag_text(given.value(name, Json())), arguments.model, what));
  };
  if (const auto* unet = dynamic_cast<const TemporalUnet*>(&network)) {
    refuse("padding", "localizer");
    same_norm(unet->config());
    require(settings.step < unet->config().steps,
            fmt::format("--step {}: {} is of a diffusion with steps from 0 to {}", settings.step,
                        arguments.model, unet->config().steps - 1));
    return;
  }
  refuse("step", "temporal U-Net");
  const LocalizerConfig& config = dynamic_cast<const Localizer&>(network).config();
  same("padding", name_of(config.padding));
  same_norm(config);
}

// The network in the file of --model.
std::unique_ptr<Network> given_network(const Arguments& arguments, LeakSettings& settings,
                                       const Device& device, DType dtype) {
  const Json& given = arguments.given;
  for (const char* name : {"transition", "dim", "multipliers", "kernel_size"}) {
    require(!given.contains(name), fmt::format("{} {}: the file of --model says it", flag_of(name),
                                               flag_text(given.value(name, Json()))));
  }
  std::unique_ptr<Network> network = load_network(arguments.model, device, dtype,
                                                  {.norm = given.value("norm", ""),
                                                   .groups = given.value("groups", std::int64_t{0}),
                                                   .samples_per_set = settings.samples_per_set,
                                                   .padding = padding_from(settings.padding)});
  check_described(arguments, *network, settings);
  return network;
}

// A temporal U-Net that hears as far as that of the settings, with as few channels as there can be:
// for what has to be known before there is memory for the other.
std::unique_ptr<Network> thin_network(const LeakSettings& settings) {
  TemporalUnetConfig config = settings.unet();
  config.check(kUnetFlags);
  config.transition = 1;
  config.dim = 4;
  std::ranges::fill(config.multipliers, 1);
  config.steps = 1;
  config.groups = 1;
  return std::make_unique<TemporalUnet>(Device::cpu(1), DType::kF32, config, 0);
}

std::int64_t length_of(const Network& network, const LeakSettings& settings) {
  if (settings.length > 0) {
    const std::string wrong = objection(network, settings.length);
    require(wrong.empty(), fmt::format("--length {}: {}", settings.length, wrong));
    return settings.length;
  }
  return natural_length(network);
}

// What is measured: the sizes of the file's sequences, or of noise. `channels` of the network.
LeakSize size_from(const Arguments& arguments, const LeakSettings& settings, const Network& network,
                   std::int64_t channels, DType dtype) {
  LeakSize size{.dtype = dtype,
                .samples = samples_of_set(network),
                .channels = channels,
                .given_model = !arguments.model.empty(),
                .given_inputs = !arguments.input.empty()};
  if (size.given_inputs) {
    for (const char* name : {"length", "inputs"}) {
      require(!arguments.given.contains(name),
              fmt::format("{} {}: has no effect with --input", flag_of(name),
                          flag_text(arguments.given.value(name, Json()))));
    }
    take_shape(npy_header(arguments.input).shape, arguments.input, size);
    const std::string wrong = objection(network, size.length);
    SC_CHECK(wrong.empty(), "{}: sequences of {} positions, {}", arguments.input, size.length,
             wrong);
  } else {
    size.inputs = settings.inputs;
    size.length = length_of(network, settings);
  }
  const std::int64_t positions = network.receptive_field(size.length).length();
  size.rows = std::min(settings.outputs, positions) * channels;
  if (!arguments.no_layers) size.norms = std::ssize(network.norms());
  if (settings.tile > 0 || settings.pad > 0) size.longest = size.length + settings.pad;
  return size;
}

// Of a network that hears everything there is, or an input without a future, --assert would say
// nothing.
void check_beyond(const Arguments& arguments, const LeakSize& size, const Network& network,
                  const std::vector<std::int64_t>& asked) {
  if (!arguments.insist) return;
  const char* more = size.given_inputs ? "longer sequences" : "a larger --length";
  require(!arguments.causal || size.length > 1,
          fmt::format("--assert: one position has no future; give {}", more));
  if (arguments.causal || size.samples > 1) return;
  const ReceptiveField field = network.receptive_field(size.length);
  const bool any = std::ranges::any_of(asked, [&](std::int64_t position) {
    const auto holds = [&](std::int64_t input) { return field.holds(position, input); };
    return !holds(0) || !holds(size.length - 1);
  });
  require(any, fmt::format("--assert: of {} positions all lie within the receptive field, nothing "
                           "is beyond; give {}",
                           size.length, more));
}

// Of noise or of a file's numbers.
std::vector<Tensor> inputs_of(const Arguments& arguments, const LeakSettings& settings,
                              const LeakSize& size, const Device& device) {
  const Shape shape{size.samples, size.length, size.channels};
  return size.given_inputs
             ? sets_of(device, size.dtype, read_npy(arguments.input), shape, arguments.input)
             : noise_sets(device, size.dtype, shape, size.inputs, settings.random_seed());
}

// With three decimals; but what is exactly 0 is 0, as nothing else is.
std::string exact_text(double value) {
  return value == 0 ? "0" : number_text(value, 3);
}

std::string shares(const Json& share) {
  const auto of_mass = share["l1"].get<double>(), of_squares = share["squared"].get<double>();
  if (of_mass == 0 && of_squares == 0) return "nothing";
  return fmt::format("{} of |J|, {} of J^2", exact_text(of_mass), exact_text(of_squares));
}

void say_report(const Json& report) {
  const Json& field = report["receptive_field"];
  const auto inside = field["inside"].get<double>();
  say("{}: hears {} positions to the left and {} to the right; {} pairs lie within\n",
      report["network"].get<std::string>(), field["left"][0].get<std::int64_t>(),
      field["right"][0].get<std::int64_t>(), inside == 1 ? "all" : exact_text(inside) + " of all");
  say("from beyond, statistics live   {}\n", shares(report["live"]));
  say("            held at this input {}\n", shares(report["frozen"]));
  say("            means alone live   {}\n", shares(report["mean"]));
  say("            variances alone    {}\n", shares(report["variance"]));
  say("|J - J held|^2 / |J|^2         {}\n", exact_text(report["difference"].get<double>()));
  if (!report["layers"].empty()) {
    // Of what comes from beyond; where nothing does, of all that goes through statistics.
    const bool beyond = report["live"]["squared"].get<double>() > 0;
    const auto carried = [&](const Json& layer) {
      return (beyond ? layer["alone"]["squared"] : layer["difference"]).template get<double>();
    };
    const auto most = std::ranges::max_element(report["layers"], {}, carried);
    say("most through                   {}: {} alone\n", (*most)["name"].get<std::string>(),
        beyond ? shares((*most)["alone"]) : exact_text(carried(*most)) + " of |J|^2");
  }
  for (const char* what : {"tiles", "pads"}) {
    if (!report.contains(what)) continue;
    const Json& part = report[what];
    const auto text = [&](const char* of) { return exact_text(part[of].get<double>()); };
    say("{:<30} changed by {}: norm {}, padding {}\n", what, text("total"), text("norm"),
        text("padding"));
  }
}

int measure(const Arguments& arguments) {
  LeakSettings settings;
  apply(arguments.given, "", settings);
  settings.check();
  require_apart("--out", arguments.out, {arguments.model, arguments.input});
  require(arguments.out != "-",
          "--out -: expected the name of a file; for standard output, --json");
  const Device device = without_shortcuts(choose_device(settings, arguments.check));
  const DType dtype = settings.dtype == "f64"   ? DType::kF64
                      : settings.dtype == "f32" ? DType::kF32
                      : device.is_cuda()        ? DType::kF32
                                                : DType::kF64;
  require(dtype == DType::kF32 || !device.is_cuda(), "--dtype f64: the CPU alone computes in it");
  std::unique_ptr<Network> network;
  if (!arguments.model.empty()) {
    network = given_network(arguments, settings, device, dtype);
  } else {
    check_effects(arguments.given, settings);
    require(!arguments.given.contains("padding"),
            fmt::format("--padding {}: has no effect without --model", settings.padding));
  }
  const std::unique_ptr<Network> thin = network ? nullptr : thin_network(settings);
  const Network& geometry = network ? *network : *thin;
  check_parts(geometry,
              {{"--tile", settings.tile}, {"--halo", settings.halo}, {"--pad", settings.pad}});
  const LeakSize size = size_from(arguments, settings, geometry,
                                  network ? network->channels_in() : settings.transition, dtype);
  LeakOptions options;
  options.layers = !arguments.no_layers;
  options.causal = arguments.causal;
  options.asked = evenly_spaced(geometry.receptive_field(size.length).length(), settings.outputs);
  check_beyond(arguments, size, geometry, options.asked);
  const MemoryNeed need = network ? memory_of(*network, size) : memory_of(settings.unet(), size);
  require_memory(need, device);
  if (arguments.check) {
    const CheckedMemory memory = checked_memory(need, device.is_cuda());
    return answer(Json::object({{"memory", memory.bytes}}), "{}\n", memory.words);
  }
  if (!network) {
    network =
        std::make_unique<TemporalUnet>(device, dtype, settings.unet(), settings.random_seed());
  }
  if (auto* unet = dynamic_cast<TemporalUnet*>(network.get())) unet->set_step(settings.step);
  const std::vector<Tensor> inputs = inputs_of(arguments, settings, size, device);
  Json report = measure_leak(*network, inputs, options);
  const Tensor& first = inputs.front();
  if (settings.tile > 0) {
    report["tiles"] = measure_tiles(*network, first, settings.tile, settings.halo);
  }
  if (settings.pad > 0) report["pads"] = measure_padding(*network, first, settings.pad);
  if (answers_in_json) {
    print_json(report);
  } else {
    say_report(report);
  }
  if (!arguments.out.empty()) {
    const std::string text = json_text(report, 2) + "\n";
    write_output(arguments.out, std::as_bytes(std::span(text)));
  }
  if (!arguments.insist || !report["leaks"].get<bool>()) return 0;
  throw Error(fmt::format("{} hears {}", network->words(),
                          arguments.causal ? "the future" : "beyond its receptive field"));
}

int main_program(int argc, char** argv) {
  Arguments arguments;
  CLI::App app{
      "Measures how much a network hears from beyond its receptive field, and through which of its "
      "normalizations.",
      "leak"};
  app.require_subcommand(1);
  CLI::App* measured = app.add_subcommand(
      "measure", "of a network in a file, or of a temporal U-Net with its initial weights");
  add_text_flag(*measured, "--model", arguments.model, "FILE", "weights, .safetensors");
  add_text_flag(*measured, "--input", arguments.input, "FILE",
                "sequences [n, l, c], .npy, instead of noise");
  add_text_flag(*measured, "--out", arguments.out, "FILE", "the report, as --json prints it");
  for (const auto& [flag, value, what] :
       {std::tuple{"--no-layers", &arguments.no_layers, "of the network alone, not by norm"},
        {"--causal", &arguments.causal, "what counts is hearing the future"},
        {"--assert", &arguments.insist, "exit code 1 where anything is heard"}}) {
    measured->add_flag(flag, *value, what)->group("Measurement");
  }
  add_check_flag(*measured, arguments.check);
  add_setting_flags(*measured, settings_that<LeakSettings>([](const Setting& setting) {
    const std::string name = setting.name;
    return name != "log_every" && name != "checkpoint_every" && name != "stop_after";
  }),
                    arguments.given, defaults_of<LeakSettings>());
  add_examples(app, {"leak measure --model runs/demo/instance/model.safetensors --length 64",
                     "leak measure --norm group --assert", "leak measure --help"});
  add_examples(*measured,
               {"leak measure --model runs/demo/instance/model.safetensors --length 64",
                "leak measure --model runs/demo/instance/model.safetensors --input x.npy --json",
                "leak measure --norm layer --dim 32 --dim-mults 1,2 --no-layers --out leak.json",
                "leak measure --norm none --assert && echo nothing leaks"});
  if (const std::optional<int> code = parse(app, argc, argv)) return *code;
  return measure(arguments);
}

}  // namespace
}  // namespace sidechannel::experiments

int main(int argc, char** argv) {
  using namespace sidechannel::experiments;
  return run_main("leak", main_program, argc, argv);
}
