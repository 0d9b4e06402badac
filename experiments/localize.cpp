#include "experiments/localize.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "engine/safetensors.h"
#include "engine/say.h"
#include "experiments/probing.h"
#include "experiments/summary.h"
#include "experiments/training.h"

namespace sidechannel::experiments {
namespace {

using Phases = LocalizationPhases;

Localizer other_model(const LocalizationSettings& settings, const Device& device,
                      const std::string& path) {
  Localizer network =
      load_model(path, device, settings.norm, settings.groups, settings.samples_per_set);
  const LocalizerConfig& found = network.config();
  SC_CHECK(found.depth == settings.depth && found.channels == settings.channels &&
               found.norm == settings.network().norm,
           "{}: a network of depth {}, {} channels and {} norm, not the one that was asked for "
           "(depth {}, {} channels, {} norm)",
           path, found.depth, found.channels, name_of(found.norm), settings.depth,
           settings.channels, settings.norm);
  return network;
}

// Keeps the weights that the run's results are of. UsageError where they are of others.
void keep_model(const RunFolder& folder, const Localizer& network, const std::string& source) {
  const std::filesystem::path kept = folder.file("model.safetensors");
  if (!folder.has("model.safetensors")) save_model(kept, network);
  const auto theirs = read_safetensors(kept).tensors;
  std::map<std::string, HostArray> mine;
  network.parameters().save(mine);
  const bool same = std::equal(mine.begin(), mine.end(), theirs.begin(), theirs.end(),
                               [](const auto& a, const auto& b) {
                                 return a.first == b.first && a.second.bytes == b.second.bytes;
                               });
  require(same, fmt::format("{} holds a run of another model than {}; choose another --out",
                            folder.path().string(), source));
}

void expect(const RunFolder& folder, const char* file, const char* instead) {
  SC_CHECK(folder.has(file), "{} has no {} yet; run {}", folder.path().string(), file, instead);
}

}  // namespace

Json run_localization(const LocalizationSettings& settings, RunFolder& folder, const Device& device,
                      Phases phases, const std::string& model) {
  std::optional<Localizer> network;
  if (!model.empty()) {
    network = other_model(settings, device, model);
    keep_model(folder, *network, model);
  }
  if (phases == Phases::kAll && has_summary(folder.path())) return read_summary(folder.path());
  const std::string fault = fault_of_summary(folder.path());
  if (!fault.empty()) note("{}; it is made again\n", fault);
  double seconds = 0;
  std::string notice;
  if (!network && (phases == Phases::kTrain || phases == Phases::kAll)) {
    network.emplace(device, DType::kF32, settings.network(),
                    static_cast<std::uint64_t>(settings.seed));
    const TrainingResult result = train(settings, *network, folder);
    seconds += result.seconds;
    notice = result.notice;
    if (!notice.empty()) note("{}\n", notice);
  } else if (!network) {
    expect(folder, "model.safetensors", "`localization train` first, or give --model");
    network = load_model(folder.file("model.safetensors"), device);
  }
  if (phases == Phases::kTrain) return {};

  Probes probes(settings, device);
  if (phases == Phases::kMap && probes.size() > 0) {
    expect(folder, "probes.safetensors", "`localization probe` first");
  }
  if (probes.size() > 0) seconds += train_probes(settings, *network, probes, folder);
  if (phases == Phases::kProbe) return {};

  seconds += make_map(settings, *network, probes, folder);
  Json summary = summarize(settings, folder, seconds);
  // The map has measured it anew, on other sequences; population statistics are another network's.
  if (notice.empty() && settings.evaluation_statistics() == Statistics::kMinibatch) {
    const Json& slope = summary["interior_slope"];
    notice = training_notice(settings, summary["final_loss"],
                             slope.is_null() ? std::nan("") : slope.get<double>());
    if (!notice.empty()) note("{}\n", notice);
  }
  summary["notice"] = notice.empty() ? Json() : Json(notice);
  folder.write_json("summary.json", summary);
  return summary;
}

}  // namespace sidechannel::experiments
