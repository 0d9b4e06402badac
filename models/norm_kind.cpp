#include "models/norm_kind.h"

#include <algorithm>

#include "engine/io/file.h"

namespace sidechannel {
namespace {

using S = NormSettings;
using O = NormOptions;

// In the order in which people read them.
constexpr void (*kOfGroups)(const S&, O&) = [](const S& s, O& o) {
  o.channels_per_set = s.channels / s.groups;
};
constexpr NormKindInfo kKinds[] = {
    {NormKind::kNone, "none", true, false, false, [](const S&, O&) {}},
    {NormKind::kInstance, "instance", true, false, false, [](const S&, O&) {}},
    {NormKind::kGroup, "group", true, true, false, kOfGroups},
    {NormKind::kGroupPopulation, "group_population", true, true, true, kOfGroups},
    {NormKind::kLayer, "layer", true, false, false,
     [](const S& s, O& o) { o.channels_per_set = s.channels; }},
    {NormKind::kPosition, "position", true, false, false,
     [](const S& s, O& o) { o.channels_per_set = s.channels, o.positions_per_set = 1; }},
    {NormKind::kRms, "rms", true, false, false,
     [](const S& s, O& o) {
       o.channels_per_set = s.channels, o.positions_per_set = 1, o.centred = false;
     }},
    {NormKind::kBatch, "batch", true, false, true,
     [](const S& s, O& o) { o.samples_per_set = s.samples_per_set; }},
    {NormKind::kPack, "pack", false, false, false, [](const S&, O& o) { o.samples_per_set = 2; }},
};

}  // namespace

const NormKindInfo& info_of(NormKind kind) {
  return *std::ranges::find(kKinds, kind, &NormKindInfo::kind);
}

std::vector<const char*> norm_names() {
  std::vector<const char*> names;
  for (const NormKindInfo& info : kKinds) {
    if (info.localizes) names.push_back(info.name);
  }
  return names;
}

NormKind norm_kind_from(const std::string& name) {
  for (const NormKindInfo& info : kKinds) {
    if (info.localizes && name == info.name) return info.kind;
  }
  throw UsageError(fmt::format("norm {}: expected {}", shown(name), listed(norm_names())));
}

}  // namespace sidechannel
