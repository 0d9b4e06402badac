#include "experiments/run/summary.h"

#include <limits>

#include "engine/io/npy.h"

namespace sidechannel::experiments {
namespace {

namespace fs = std::filesystem;

// Measures that are not defined (of an interior that is none) are null.
void check_measure(const Json& value, const std::string& what, double least, double most) {
  if (!value.is_null()) json_as<double>(value, what, least, most);
}

template <class Read>
std::string fault_of(const fs::path& file, Read&& read) {
  if (!fs::exists(file)) return {};
  try {
    read();
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

Json read_summary(const fs::path& folder) {
  const std::string source = (folder / kSummary).string();
  Json summary = read_json(folder / kSummary);
  for (const char* name : {"localized_fraction", "interior_localized_fraction"}) {
    const Json& layers = list_member(summary, name, source);
    SC_CHECK(!layers.empty(), "{}: \"{}\" is an empty list, expected a number for each layer",
             source, name);
    for (const Json& value : layers) {
      check_measure(value, fmt::format("{}: \"{}\": a number", source, name), 0, 1);
    }
  }
  constexpr double kMost = std::numeric_limits<double>::max();
  check_measure(member(summary, "interior_slope", source),
                fmt::format("{}: \"interior_slope\"", source), -kMost, kMost);
  for (const char* name : {"localization_distance", "unbroken_distance"}) {
    field<double>(summary, name, source, 0.0);
  }
  return summary;
}

Json read_result(const fs::path& folder, std::int64_t overlap) {
  const std::string source = (folder / kResult).string();
  Json result = read_json(folder / kResult);
  field<std::int64_t>(result, "overlap", source, overlap, overlap);
  field<double>(result, "mse", source, 0.0);
  return result;
}

Json read_plans(const fs::path& folder) {
  const std::string source = (folder / kSummary).string();
  Json summary = read_json(folder / kSummary);
  field<std::int64_t>(summary, "horizon", source, 1);
  for (const char* name : {"held_out", "trained"}) member(summary, name, source);
  return summary;
}

std::string fault_of_summary(const fs::path& folder) {
  return fault_of(folder / kSummary, [&] { read_summary(folder); });
}

std::string fault_of_result(const fs::path& folder, std::int64_t overlap) {
  return fault_of(folder / kResult, [&] { read_result(folder, overlap); });
}

std::string fault_of_plans(const fs::path& folder) {
  return fault_of(folder / kSummary, [&] { read_plans(folder); });
}

std::string fault_of_localization(const fs::path& folder) {
  return fault_of(folder / kSummary, [&] {
    read_summary(folder);
    for (const char* name : {"layer_mean.npy", "layer_variance.npy", "p_max.npy",
                             "predictions_mean.npy", "predictions_sample.npy", "localized.npy"}) {
      read_npy(folder / name);
    }
  });
}

bool has_summary(const fs::path& folder) {
  return fs::exists(folder / kSummary) && fault_of_summary(folder).empty();
}

bool has_result(const fs::path& folder, std::int64_t overlap) {
  return fs::exists(folder / kResult) && fault_of_result(folder, overlap).empty();
}

}  // namespace sidechannel::experiments
