#pragma once

#include <memory>
#include <string>
#include <vector>

#include "experiments/localization/settings.h"
#include "experiments/run/run_folder.h"
#include "models/network.h"

namespace sidechannel::experiments {

// The phases of a localization run. Each needs what those before it left in the folder.
enum class LocalizationPhases { kTrain, kProbe, kMap, kAll };

inline constexpr const char* kGivenModel = "model";  // in config.json, of a run that did not train

// The trainings of a run, which may grow.
std::vector<Growth> growth_of(const LocalizationSettings& settings);

// The network in a file, which must be the one that the settings describe: UsageError that names
// what differs.
std::unique_ptr<Network> given_model(const LocalizationSettings& settings, const Device& device,
                                     const std::string& path);

// Keeps the weights that a run's results are of, which come from `source`. UsageError where the
// folder holds other ones.
void keep_model(const RunFolder& folder, const Network& network, const std::string& source);

// Carries out a localization run in `folder`: trains the network, trains probes on its layers, maps
// which indices each layer can tell apart and writes summary.json, which it returns. Or only one of
// these phases, and returns nothing before there is a summary. Continues where an earlier call
// stopped; a finished run costs nothing. `model`, where given, is a file with weights to use
// instead of training; the folder, whose config.json then has kGivenModel, keeps them, goes on with
// them, and refuses others.
//
// `settings` are the folder's, on `device` (see choose_device). Throws Interrupted when a signal
// asks for it, Error and UsageError otherwise. `from`: see begin().
Json run_localization(const LocalizationSettings& settings, RunFolder& folder, const Device& device,
                      LocalizationPhases phases = LocalizationPhases::kAll,
                      const std::string& model = "", const Network* from = nullptr);

}  // namespace sidechannel::experiments
