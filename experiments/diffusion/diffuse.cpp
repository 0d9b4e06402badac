#include "experiments/diffusion/diffuse.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "engine/io/safetensors.h"
#include "experiments/diffusion/evaluate.h"
#include "experiments/leak/measure.h"
#include "experiments/run/beginning.h"
#include "experiments/run/progress.h"
#include "experiments/run/summary.h"
#include "experiments/run/training_loop.h"
#include "models/model_file.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

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

}  // namespace

std::vector<Growth> growth_of(const DiffusionSettings& settings) {
  return {{.setting = "iterations",
           .state = kCheckpointFile,
           .rate = settings.training_rate(),
           .by = "schedule",
           .results = {kSummary, kModelFile}}};
}

Json run_diffusion(const DiffusionSettings& settings, RunFolder& folder, const Device& device,
                   const Network* given) {
  const Corridors corridors(settings.world(), settings.random_seed());
  TemporalUnet network(device, DType::kF32, settings.network(), settings.random_seed());
  const double seconds = train(settings, corridors, network, folder, given);
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
  return summary;
}

std::string words_of_plans(const DiffusionSettings& settings, const Json& summary) {
  return fmt::format("norm {}; pairs held out: {}; pairs trained: {}", settings.norm,
                     words(summary["held_out"]), words(summary["trained"]));
}

}  // namespace sidechannel::experiments
