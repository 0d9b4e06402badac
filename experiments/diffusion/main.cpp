// A planner by diffusion (Janner et al. 2022) on corridors of our own: trained on walks, it plans
// ways between junctions that it has and has not seen together, and its leak is measured as it
// learns. The normalization is the setting that is to be compared.

#include <CLI/CLI.hpp>
#include <string>

#include "experiments/diffusion/diffuse.h"
#include "experiments/run/beginning.h"
#include "experiments/run/flags.h"
#include "experiments/run/help.h"
#include "experiments/run/program.h"
#include "experiments/run/summary.h"
#include "models/model_file.h"
#include "models/temporal_unet.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

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
  const Json summary = run_diffusion(settings, folder, device, given.get());
  return answer({{"folder", where}, {"summary", summary}}, "{}: {}\n", where,
                words_of_plans(settings, summary));
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
