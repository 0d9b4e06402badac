// A planner by diffusion (Janner et al. 2022) on corridors of our own: trained on walks, it plans
// ways between junctions that it has and has not seen together, and its leak is measured as it
// learns. The normalization is the setting that is to be compared.

#include <CLI/CLI.hpp>
#include <cmath>
#include <string>

#include "engine/io/safetensors.h"
#include "engine/say.h"
#include "experiments/diffusion/evaluate.h"
#include "experiments/leak/measure.h"
#include "experiments/run/beginning.h"
#include "experiments/run/flags.h"
#include "experiments/run/help.h"
#include "experiments/run/program.h"
#include "experiments/run/progress.h"
#include "experiments/run/training_loop.h"
#include "models/model_file.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSummary = "summary.json";
constexpr const char* kLeak = "leak.json";

std::string snapshot_of(std::int64_t step) {
  return fmt::format("model-{:07}.safetensors", step);
}

// When the network is kept, to be measured: before, while and after it learns. But for the last not
// by how long it is to learn, which may grow.
std::vector<std::int64_t> snapshots_of(const DiffusionSettings& settings) {
  std::vector<std::int64_t> steps = {0};
  for (std::int64_t ten = 10; 3 * ten < settings.iterations; ten *= 10) {
    steps.push_back(3 * ten);
    if (10 * ten < settings.iterations) steps.push_back(10 * ten);
  }
  steps.push_back(settings.iterations);
  return steps;
}

std::vector<Growth> growth_of(const DiffusionSettings& settings) {
  return {{.setting = "iterations",
           .state = kCheckpointFile,
           .rate = settings.training_rate(),
           .by = "schedule",
           .results = {kSummary, kModelFile}}};
}

// The network in the file that a run is to begin with; null where that is not named.
std::unique_ptr<Network> given_network(const DiffusionSettings& settings, const Device& device,
                                       const std::string& path) {
  if (path.empty()) return nullptr;
  std::unique_ptr<Network> network =
      load_network(path, device, DType::kF32, {settings.norm, settings.groups});
  const auto* found = dynamic_cast<const TemporalUnet*>(network.get());
  require(found != nullptr && found->config().transition == settings.network().transition,
          fmt::format("--from {}: no network of the program diffusion", path));
  const TemporalUnetConfig& config = found->config();
  const Json mine = to_json(settings);
  require_same(mine, "dim", config.dim, path);
  require_same(mine, "multipliers", fmt::format("{}", fmt::join(config.multipliers, ",")), path);
  require_same(mine, "kernel_size", config.kernel_size, path);
  require_same(mine, "norm", name_of(config.norm), path);
  if (settings.has_groups()) require_same(mine, "groups", config.groups, path);
  require_same(mine, "steps", config.steps, path);
  return network;
}

// Trains, and leaves the network with the average of its weights. `from`: see begin().
double train(const DiffusionSettings& settings, const Corridors& corridors, TemporalUnet& network,
             RunFolder& folder, const Network* from) {
  const std::vector<std::int64_t> snapshots = snapshots_of(settings);
  begin(network, folder, snapshot_of(0).c_str(), from);
  DiffusionStep* step = nullptr;
  TrainingLoop loop(settings, folder,
                    {.phase = "train",
                     .state_file = kCheckpointFile,
                     .steps = settings.iterations,
                     .kept = 1,
                     .make_step =
                         [&](std::int64_t /*first*/) {
                           auto made =
                               std::make_unique<DiffusionStep>(settings, network, corridors);
                           step = made.get();
                           return made;
                         },
                     .after =
                         [&](std::int64_t done) {
                           step->average(done);
                           if (std::ranges::find(snapshots, done) == snapshots.end()) return;
                           if (step->adam().halted()) return;  // which the loop will say
                           save_model(folder.file(snapshot_of(done)), network);
                         }});
  const double seconds = loop.run();
  const Ema::InPlace averaged(step->ema());
  save_model(folder.file(kModelFile), network);
  return seconds;
}

Json measured_leaks(const DiffusionSettings& settings, const Corridors& corridors,
                    const RunFolder& folder, const Device& device) {
  Json all = Json::array();
  for (const std::int64_t step : snapshots_of(settings)) {
    const fs::path path = folder.file(snapshot_of(step));
    const SafetensorsFile file = read_safetensors(path);
    TemporalUnet network(device, DType::kF32, settings.network(), file.tensors, path.string());
    for (Json& line : leak_of(settings, corridors, network)) {
      Json with_step = {{"step", step}};
      with_step.update(line);
      all.push_back(with_step);
    }
  }
  return all;
}

std::string words(const Json& judged) {
  if (judged.is_null()) return "none";
  return fmt::format("{} of {} plans valid, {} of the pairs solved",
                     share_text(judged["valid"].get<double>()), judged["plans"].get<std::int64_t>(),
                     share_text(judged["solved"].get<double>()));
}

int run(const RunFlags& flags, const std::string& from) {
  auto settings = resolve<DiffusionSettings>(flags);
  const Device device = choose_device(settings, flags.check);
  const fs::path out =
      flags.out.empty() ? default_folder(settings.preset, fmt::format("diffusion-{}-seed{}",
                                                                      settings.norm, settings.seed))
                        : flags.out;
  const MemoryNeed memory = memory_of(settings);
  require_memory(memory, device);
  const std::string where = out.string();
  const std::unique_ptr<Network> given = given_network(settings, device, from);
  const Json described = beginning_with(from, to_json(settings));
  const Resume resume = flags.resume_policy();
  const std::vector<Growth> growth = growth_of(settings);
  if (flags.check) {
    require_folder_for(out, described, resume, do_not_matter(), growth);
    return answer_check(where, checked_memory(memory, device.is_cuda()));
  }
  RunFolder folder(out, described, device, resume, do_not_matter(), origin_of(from), growth);
  if (folder.has(kSummary)) {  // which is written last
    return answer({{"folder", where}, {"summary", read_json(folder.file(kSummary))}},
                  "{}: done already, see {}\n", where, kSummary);
  }
  const Corridors corridors(settings.world(), settings.random_seed());
  TemporalUnet network(device, DType::kF32, settings.network(), settings.random_seed());
  const double seconds = train(settings, corridors, network, folder, given.get());
  const SafetensorsFile file = read_safetensors(folder.file(kModelFile));
  const TemporalUnet planner(device, DType::kF32, settings.network(), file.tensors, kModelFile);
  const Json plans = evaluate_plans(settings, corridors, planner, folder);
  const Json leaks = measured_leaks(settings, corridors, folder, without_shortcuts(device));
  folder.write_json(kLeak, {{"lines", leaks}});
  const Network::Reach reach = planner.reach();
  Json summary = {{"norm", settings.norm},
                  {"seed", settings.seed},
                  {"horizon", settings.horizon()},
                  {"reach", {{"left", reach.left}, {"right", reach.right}}},
                  {"multipliers", settings.multipliers},
                  {"kernel_size", settings.kernel_size},
                  {"held_out_pairs", corridors.held_out().size()},
                  {"trained_pairs", corridors.trained().size()},
                  {"seconds", std::round(seconds * 1000) / 1000}};
  summary.update(plans);
  folder.write_json(kSummary, summary);
  return answer({{"folder", where}, {"summary", summary}},
                "{}: norm {}; pairs held out: {}; pairs trained: {}\n", where, settings.norm,
                words(plans["held_out"]), words(plans["trained"]));
}

int main_program(int argc, char** argv) {
  RunFlags flags;
  std::string from;
  CLI::App app{
      "Trains a temporal U-Net to plan by diffusion on corridors, and measures how it plans and\n"
      "how much it hears from beyond its receptive field.",
      "diffusion"};
  app.require_subcommand(1);
  const std::vector<Setting>& settings = all_settings<DiffusionSettings>();
  const Defaults defaults = defaults_of<DiffusionSettings>();
  CLI::App* run_command = app.add_subcommand("run", "train, plan and measure");
  add_run_flags(*run_command, settings, "runs/PRESET-diffusion-NORM-seedN", flags, defaults);
  add_from_flag(*run_command, from);
  CLI::App* print = app.add_subcommand("settings", "print what a preset and flags come to");
  add_preset_flags(*print, settings, flags, defaults);
  add_examples(app, {"diffusion run --preset demo", "diffusion run --preset demo --norm position",
                     "diffusion run --help"});
  add_examples(*run_command,
               {"diffusion run --preset demo --norm group --check",
                "diffusion run --norm rms --lr 1e-3 --train-steps 2000 --out runs/rms",
                "diffusion run --preset small --seed 1 --quiet --json > result.json"});
  add_examples(*print, {"diffusion settings --preset paper",
                        "diffusion settings --preset small --norm position"});
  if (const std::optional<int> code = parse(app, argc, argv)) return *code;
  if (*print) return print_settings<DiffusionSettings>(flags);
  return run(flags, from);
}

}  // namespace
}  // namespace sidechannel::experiments

int main(int argc, char** argv) {
  using namespace sidechannel::experiments;
  return run_main("diffusion", main_program, argc, argv);
}
