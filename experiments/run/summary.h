#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "engine/error.h"
#include "engine/io/json.h"

namespace sidechannel::experiments {

// What a finished run leaves: summary.json of localization and of diffusion, result.json of one
// overlap. A file that is there is not enough: it must hold what those who read it rely on, or the
// run is not finished.
inline constexpr const char* kSummary = "summary.json";
inline constexpr const char* kResult = "result.json";

// Error, which begins with the file's name, where it is not there or lacks something.
Json read_summary(const std::filesystem::path& folder);
Json read_result(const std::filesystem::path& folder, std::int64_t overlap);
Json read_plans(const std::filesystem::path& folder);  // summary.json of diffusion

bool has_summary(const std::filesystem::path& folder);
bool has_result(const std::filesystem::path& folder, std::int64_t overlap);

// Of localization: what is wrong with summary.json or the arrays beside it. Empty also where there
// is no summary yet.
std::string fault_of_localization(const std::filesystem::path& folder);

// What is wrong with one that is there; empty where nothing is, or where there is none.
std::string fault_of_summary(const std::filesystem::path& folder);
std::string fault_of_result(const std::filesystem::path& folder, std::int64_t overlap);
std::string fault_of_plans(const std::filesystem::path& folder);

}  // namespace sidechannel::experiments
