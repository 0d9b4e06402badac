#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/norm.h"

namespace sidechannel {

// What a kind of normalization may ask of a network's settings.
struct NormSettings {
  std::int64_t channels;
  std::int64_t groups;           // G, of kinds that have groups
  std::int64_t samples_per_set;  // for batch norm: the samples that share their statistics
};

// Which values share their statistics. A new kind is a name here and a row in norm_kind.cpp; what
// programs accept, print, say in errors and write in help comes from there.
enum class NormKind {
  kNone,
  kInstance,
  kGroup,
  kGroupPopulation,  // group norm that tracks running averages, to be evaluated with them
  kLayer,            // over channels and positions
  kPosition,         // over the channels of each position, as transformers have it: it cannot leak
  kRms,              // the same without a mean
  kBatch,
  kPack,  // PackNorm of Section 3.2: two neighbouring sequences end to end
};

struct NormKindInfo {
  NormKind kind;
  const char* name;
  bool localizes;  // in networks of Equation (1); the other ones are Section 3.2's
  bool has_groups;
  bool has_running_statistics;
  void (*choose_sets)(const NormSettings& settings, NormOptions& options);
};

const NormKindInfo& info_of(NormKind kind);
inline std::string name_of(NormKind kind) {
  return info_of(kind).name;
}

// Of networks of Equation (1): the names, and the kind of a name; UsageError for other ones.
std::vector<const char*> norm_names();
NormKind norm_kind_from(const std::string& name);

}  // namespace sidechannel
