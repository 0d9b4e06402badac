#include "experiments/localization/localize.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "engine/io/safetensors.h"
#include "engine/say.h"
#include "experiments/localization/probing.h"
#include "experiments/localization/training.h"
#include "experiments/run/summary.h"

namespace sidechannel::experiments {
namespace {

using Phases = LocalizationPhases;

void expect(const RunFolder& folder, const char* file, const char* instead) {
  SC_CHECK(folder.has(file), "{} has no {} yet; run {}", folder.path().string(), file, instead);
}

}  // namespace

std::vector<Growth> growth_of(const LocalizationSettings& settings) {
  return {{.setting = "iterations",
           .state = kCheckpointFile,
           .rate = settings.training_rate(),
           .before = settings.curriculum_iterations,
           .by = "schedule",
           .results = {"summary.json", kModelFile, kProbesFile}},
          {.setting = "probe_iterations",
           .state = kProbesCheckpoint,
           .rate = settings.probe_rate(),
           .by = "probe_schedule",
           .anew = true,
           .results = {"summary.json", kProbesFile}}};
}

void keep_model(const RunFolder& folder, const Network& network, const std::string& source) {
  const std::filesystem::path kept = folder.file(kModelFile);
  if (!folder.has(kModelFile)) save_model(kept, network);
  const auto theirs = read_safetensors(kept).tensors;
  std::map<std::string, HostArray> mine;
  network.parameters().save(mine);
  const bool same = std::ranges::equal(mine, theirs, [](const auto& a, const auto& b) {
    return a.first == b.first && a.second.bytes == b.second.bytes;
  });
  require(same, fmt::format("{} holds a run of another model than {}; choose another --out",
                            folder.path().string(), source));
}

std::unique_ptr<Network> given_model(const LocalizationSettings& settings, const Device& device,
                                     const std::string& path) {
  std::unique_ptr<Network> network = load_network(
      path, device, DType::kF32,
      {settings.norm, settings.groups, settings.samples_per_set, padding_from(settings.padding)});
  const auto same = [&](const char* name, const auto& theirs, const auto& mine) {
    require(theirs == mine, fmt::format("{}: a network with {} {}, where the run has {} {}", path,
                                        flag_of(name), theirs, flag_of(name), mine));
  };
  // What a localizer and a U-Net have in common.
  const auto same_norm = [&](const auto& found) {
    same("norm", name_of(found.norm), settings.norm);
    same("kernel_size", found.kernel_size, settings.kernel_size);
    if (settings.has_groups()) same("groups", found.groups, settings.groups);
    if (settings.has_sets()) {
      same("samples_per_set", found.samples_per_set, settings.samples_per_set);
    }
  };
  const auto* localizer = dynamic_cast<const Localizer*>(network.get());
  require(
      localizer == nullptr || localizer->config().norm != NormKind::kPack,
      fmt::format("{}: a network of the program overlap (norm pack), not of localization", path));
  same("network", std::string(localizer ? "localizer" : "unet"), settings.network);
  if (localizer) {
    const LocalizerConfig& found = localizer->config();
    same_norm(found);
    same("padding", name_of(found.padding), settings.padding);
    same("depth", found.depth, settings.depth);
    same("channels", found.channels, settings.channels);
  } else {
    const TemporalUnetConfig& found = dynamic_cast<const TemporalUnet&>(*network).config();
    same_norm(found);
    require(found.transition == 1,
            fmt::format("{}: a U-Net of {} channels, expected 1", path, found.transition));
    same("channels", found.dim, settings.channels);
    same("multipliers", fmt::format("{}", fmt::join(found.multipliers, ",")), settings.multipliers);
  }
  return network;
}

Json run_localization(const LocalizationSettings& settings, RunFolder& folder, const Device& device,
                      Phases phases, const std::string& model, const Network* from) {
  std::unique_ptr<Network> network;
  // A run whose model was given goes on with it, named again or not.
  const bool given = folder.config().contains(kGivenModel);
  const std::string where = folder.path().string();
  require(!given || phases != Phases::kTrain,
          fmt::format("{} holds a run of a model that was given; choose another --out", where));
  if (!model.empty()) {
    require(given || folder.has(kModelFile),
            fmt::format("{} holds a run that trains its own network; choose another --out", where));
    network = given_model(settings, device, model);
    keep_model(folder, *network, model);
  } else if (given) {
    expect(folder, kModelFile, "with --model once more");
    network = given_model(settings, device, folder.file(kModelFile));
  }
  const std::string fault = fault_of_localization(folder.path());
  if (phases == Phases::kAll && fault.empty() && folder.has("summary.json")) {
    return read_summary(folder.path());
  }
  if (!fault.empty()) note("{}; it is made again\n", fault);
  double seconds = 0;
  std::string notice;
  if (!network && (phases == Phases::kTrain || phases == Phases::kAll)) {
    network = settings.make_network(device);
    const TrainingResult result = train(settings, *network, folder, from);
    seconds += result.seconds;
    notice = result.notice;
    if (!notice.empty()) note("{}\n", notice);
  } else if (!network) {
    expect(folder, kModelFile, "`localization train` first, or give --model");
    network = given_model(settings, device, folder.file(kModelFile));
  }
  if (phases == Phases::kTrain) return {};

  Probes probes(settings, device);
  if (phases == Phases::kMap && probes.size() > 0) {
    expect(folder, kProbesFile, "`localization probe` first");
  }
  if (probes.size() > 0) seconds += train_probes(settings, *network, probes, folder);
  if (phases == Phases::kProbe) return {};

  seconds += make_map(settings, *network, probes, folder);
  Json summary = summarize(settings, folder, seconds);
  // The map has measured it anew, on other sequences; population statistics are another network's.
  if (!given && notice.empty() && settings.evaluation_statistics() == Statistics::kMinibatch) {
    notice = training_notice(settings, summary["final_loss"],
                             number_or(summary["interior_slope"], std::nan("")));
    if (!notice.empty()) note("{}\n", notice);
  }
  summary["notice"] = notice.empty() ? Json() : Json(notice);
  folder.write_json("summary.json", summary);
  return summary;
}

}  // namespace sidechannel::experiments
