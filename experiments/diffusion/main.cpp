// A planner by diffusion (Janner et al. 2022) on corridors of our own: trained on walks, it plans
// ways between junctions that it has and has not seen together, and its leak is measured as it
// learns. The normalization is the setting that is to be compared.

#include <CLI/CLI.hpp>
#include <string>

#include "engine/say.h"
#include "experiments/diffusion/diffuse.h"
#include "experiments/run/flags.h"
#include "experiments/run/program.h"
#include "experiments/run/summary.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

int run(const RunFlags& flags) {
  auto settings = resolve<DiffusionSettings>(flags);
  const Device device = choose_device(settings, flags.check);
  const fs::path out =
      flags.out.empty() ? default_folder(settings.preset, fmt::format("diffusion-{}-seed{}",
                                                                      settings.norm, settings.seed))
                        : flags.out;
  const MemoryNeed memory = memory_of(settings);
  require_memory(memory, device);
  if (flags.check) {
    require_folder_for(out, to_json(settings), flags.resume_policy());
    say("{}\n", checked_memory(memory, device.is_cuda()));
    return 0;
  }
  RunFolder folder(out, to_json(settings), device, flags.resume_policy());
  if (folder.has(kSummary)) {  // which is written last
    say("{}: done already, see {}\n", out.string(), kSummary);
    return 0;
  }
  const Json summary = run_diffusion(settings, folder, device);
  say("{}: {}\n", out.string(), words_of_plans(settings, summary));
  return 0;
}

int main_program(int argc, char** argv) {
  RunFlags flags;
  CLI::App app{
      "Trains a temporal U-Net to plan by diffusion on corridors, and measures how it plans and\n"
      "how much it hears from beyond its receptive field."};
  app.require_subcommand(1);
  const std::vector<Setting>& settings = all_settings<DiffusionSettings>();
  CLI::App* run_command = app.add_subcommand("run", "train, plan and measure");
  add_run_flags(*run_command, settings, "runs/PRESET-diffusion-NORM-seedN", flags);
  CLI::App* print = app.add_subcommand("settings", "print what a preset and flags come to");
  add_preset_flags(*print, settings, flags);
  if (const std::optional<int> code = parse(app, argc, argv)) return *code;
  if (*print) return print_settings<DiffusionSettings>(flags);
  return run(flags);
}

}  // namespace
}  // namespace sidechannel::experiments

int main(int argc, char** argv) {
  using namespace sidechannel::experiments;
  return run_main("diffusion", main_program, argc, argv);
}
