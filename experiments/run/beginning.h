#pragma once

#include <string>

#include "experiments/run/run_folder.h"
#include "models/network.h"

namespace CLI {
class App;
}

namespace sidechannel::experiments {

// Trainings that begin with the weights of a file (--from) and a fresh optimizer.

void add_from_flag(CLI::App& app, std::string& from);

// Those of a run that begins with what the file holds now, or, where it is empty, as it is.
Json beginning_with(const std::string& from, Json settings);

// What of config.json says in words where that came from.
Json origin_of(const std::string& from);

// Whether the run in the folder begins so.
bool begins_with_a_file(const RunFolder& folder);

// Gives `network`, which has initial weights of its own, those that the run in the folder begins
// with, which the folder keeps under `kept`: where it is to begin with a file's, those of `given`,
// null where the file is not named again. Error where they are then not there yet.
void begin(Network& network, const RunFolder& folder, const char* kept, const Network* given);

}  // namespace sidechannel::experiments
