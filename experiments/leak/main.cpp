// The leak meter: how much a network hears from beyond its receptive field, and through which of
// its normalizations.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <string>

#include "engine/finite.h"
#include "engine/io/npy.h"
#include "engine/io/output_file.h"
#include "engine/say.h"
#include "experiments/leak/measure.h"
#include "experiments/leak/settings.h"
#include "experiments/run/flags.h"
#include "experiments/run/program.h"
#include "experiments/run/progress.h"

namespace sidechannel::experiments {
namespace {

constexpr Stream kLeakNoise{6};

struct Arguments {
  Json given = Json::object();
  std::string model;
  std::string input;
  std::string out;
  bool no_layers = false;
  bool causal = false;
  bool insist = false;
};

// The samples whose statistics belong together.
std::int64_t samples_of_set(const Network& network) {
  std::int64_t most = 1;
  for (const Network::Norm& norm : network.norms()) {
    most = std::max(most, norm.options.samples_per_set);
  }
  return most;
}

std::unique_ptr<Network> network_of(const Arguments& arguments, const LeakSettings& settings,
                                    const Device& device, DType dtype) {
  const Json& given = arguments.given;
  if (arguments.model.empty()) {
    auto unet =
        std::make_unique<TemporalUnet>(device, dtype, settings.unet(), settings.random_seed());
    unet->set_step(settings.step);
    return unet;
  }
  for (const char* name : {"transition", "dim", "multipliers", "kernel_size"}) {
    require(!given.contains(name), fmt::format("{}: the file of --model says it", flag_of(name)));
  }
  std::unique_ptr<Network> network = load_network(arguments.model, device, dtype,
                                                  {.norm = given.value("norm", ""),
                                                   .groups = given.value("groups", std::int64_t{0}),
                                                   .samples_per_set = settings.samples_per_set,
                                                   .padding = padding_from(settings.padding)});
  if (auto* unet = dynamic_cast<TemporalUnet*>(network.get())) {
    unet->set_step(settings.step);
  } else {
    require(!given.contains("step"),
            fmt::format("--step: {} holds no temporal U-Net", arguments.model));
  }
  return network;
}

// Twice what the network hears, cut to what its layers take.
std::int64_t length_of(const Network& network, const LeakSettings& settings) {
  if (settings.length > 0) return settings.length;
  if (network.shortest() > network.stride()) return network.shortest();  // of one length alone
  const Network::Reach reach = network.reach();
  const std::int64_t stride = network.stride();
  return (2 * (reach.left + reach.right + 1) + stride - 1) / stride * stride;
}

// Sets of samples, of noise or of a file's numbers.
std::vector<Tensor> inputs_of(const Arguments& arguments, const LeakSettings& settings,
                              const Network& network, DType dtype) {
  const std::int64_t samples = samples_of_set(network), channels = network.channels_in();
  const Device& device = network.parameters().device();
  std::vector<Tensor> inputs;
  if (!arguments.input.empty()) {
    const HostArray array = converted(read_npy(arguments.input), dtype);
    const Shape& shape = array.shape;
    const bool flat = shape.rank() == 2 && channels == 1;  // [n, l], as `localization predict`
    SC_CHECK(shape.size() > 0 && (flat || (shape.rank() == 3 && shape[2] == channels)) &&
                 shape[0] % samples == 0,
             "{}: expected an array [n, l, {}] of sequences, n a multiple of {}, got shape {}",
             arguments.input, channels, samples, shape.str());
    SC_CHECK(first_not_finite(array).empty(), "{}: holds {}", arguments.input,
             first_not_finite(array));
    const Tensor all = Tensor::from(device, array);
    const std::int64_t size = samples * shape[1] * channels;
    for (std::int64_t first = 0; first < all.size(); first += size) {
      inputs.push_back(all.slice(first, size).reshape({samples, shape[1], channels}));
    }
    return inputs;
  }
  const std::int64_t length = length_of(network, settings);
  Random random(device, settings.random_seed());
  for (std::int64_t i = 0; i < settings.inputs; ++i) {
    Tape tape(device, dtype);
    // Channels of a position are neighbouring samples of the generator's sequences.
    const Tensor noise = tape.normal({samples, length * channels}, kLeakNoise, random).value();
    const Tensor kept(device, dtype, {samples, length, channels});
    kept.copy_from(noise.reshape(kept.shape()));
    inputs.push_back(kept);
    random.advance(0, static_cast<std::uint32_t>(samples));
  }
  return inputs;
}

std::string shares(const Json& share) {
  return fmt::format("{} of |J|, {} of J^2", share_text(share["l1"].get<double>()),
                     share_text(share["squared"].get<double>()));
}

void say_report(const Json& report) {
  const Json& field = report["receptive_field"];
  say("{}: hears {} positions to the left and {} to the right; {} of all pairs lie within\n",
      report["network"].get<std::string>(), field["left"][0].get<std::int64_t>(),
      field["right"][0].get<std::int64_t>(), share_text(field["inside"].get<double>()));
  say("from beyond, statistics live   {}\n", shares(report["live"]));
  say("            held at this input {}\n", shares(report["frozen"]));
  say("            means alone live   {}\n", shares(report["mean"]));
  say("            variances alone    {}\n", shares(report["variance"]));
  say("|J - J held|^2 / |J|^2         {}\n", number_text(report["difference"].get<double>(), 3));
  if (!report["layers"].empty()) {
    const auto most = std::ranges::max_element(report["layers"], {}, [](const Json& layer) {
      return layer["alone"]["squared"].template get<double>();
    });
    say("most through                   {}: {} alone\n", (*most)["name"].get<std::string>(),
        shares((*most)["alone"]));
  }
  for (const char* what : {"tiles", "pads"}) {
    if (!report.contains(what)) continue;
    const Json& part = report[what];
    say("{}                          changed by {}: norm {}, padding {}\n", what,
        number_text(part["total"].get<double>(), 3), number_text(part["norm"].get<double>(), 3),
        number_text(part["padding"].get<double>(), 3));
  }
}

int measure(const Arguments& arguments) {
  LeakSettings settings;
  apply(arguments.given, "", settings);
  settings.check();
  check_effects(arguments.given, settings);
  const Device device = without_shortcuts(choose_device(settings));
  const DType dtype = settings.dtype == "f64"   ? DType::kF64
                      : settings.dtype == "f32" ? DType::kF32
                      : device.is_cuda()        ? DType::kF32
                                                : DType::kF64;
  require(dtype == DType::kF32 || !device.is_cuda(), "--dtype f64: the CPU alone computes in it");
  const std::unique_ptr<Network> network = network_of(arguments, settings, device, dtype);
  const std::vector<Tensor> inputs = inputs_of(arguments, settings, *network, dtype);
  const std::int64_t length = inputs.front().shape()[1];
  LeakOptions options;
  options.layers = !arguments.no_layers;
  options.causal = arguments.causal;
  options.asked = evenly_spaced(network->receptive_field(length).length(), settings.outputs);
  Json report = measure_leak(*network, inputs, options);
  const Tensor& first = inputs.front();
  if (settings.tile > 0 || settings.pad > 0) {
    require(first.shape()[0] == 1,
            "--tile and --pad: of networks whose statistics hold one sample");
  }
  if (settings.tile > 0) {
    report["tiles"] = measure_tiles(*network, first, settings.tile, settings.halo);
  }
  if (settings.pad > 0) report["pads"] = measure_padding(*network, first, settings.pad);
  if (arguments.out != "-") say_report(report);
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
      "normalizations."};
  app.require_subcommand(1);
  CLI::App* measured = app.add_subcommand(
      "measure", "of a network in a file, or of a temporal U-Net with its initial weights");
  measured->add_option("--model", arguments.model, "weights, .safetensors");
  measured->add_option("--input", arguments.input, "sequences [n, l, c], .npy, instead of noise");
  measured->add_option("--out", arguments.out, "the report, JSON; - for standard output");
  measured->add_flag("--no-layers", arguments.no_layers, "of the network alone, not by norm");
  measured->add_flag("--causal", arguments.causal, "what counts is hearing the future");
  measured->add_flag("--assert", arguments.insist, "exit code 1 where anything is heard");
  add_setting_flags(*measured, settings_that<LeakSettings>([](const Setting& setting) {
    const std::string name = setting.name;
    return name != "log_every" && name != "checkpoint_every" && name != "stop_after";
  }),
                    arguments.given);
  if (const std::optional<int> code = parse(app, argc, argv)) return *code;
  return measure(arguments);
}

}  // namespace
}  // namespace sidechannel::experiments

int main(int argc, char** argv) {
  using namespace sidechannel::experiments;
  return run_main("leak", main_program, argc, argv);
}
