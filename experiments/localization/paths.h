#pragma once

#include "experiments/localization/settings.h"
#include "experiments/run/memory.h"
#include "experiments/run/run_folder.h"
#include "models/localizer.h"

namespace sidechannel::experiments {

// What `localization paths` asks beside the network.
struct PathsSettings : LocalizationSettings {
  using Self = PathsSettings;
  SETTING(std::int64_t, index, 0, "the output index that listens, from 1; 0 for the middle one",
          Whole{0, kMostLength}, Section{"Measurement"});
  SETTING(std::int64_t, sequences, 400, "sequences of noise that are changed",
          Whole{1, kMostSteps});

  void check() const;
  // From 0.
  std::int64_t listener() const { return index == 0 ? length / 2 : index - 1; }
  // The flags: what describes the network, and the above.
  static std::vector<Setting> flags();
};

MemoryNeed memory_of_paths(const PathsSettings& settings, bool on_gpu);

// Figure 2, measured: which normalizations carry to an output index what its receptive field does
// not hold. In sequences of noise x the value at a position outside of the field is drawn anew, one
// position after the other, and all of them at once; x is the same within the field. With all
// statistics fixed at those of x the output stays as it is, to the bit. So what changes came
// through statistics: let delta(S) be the change of the output where the norms in S take their own
// statistics and all others are fixed, and delta that of the network as it is. Norm l carried
//
//   carried          E[(delta(S + l) - delta(S)) delta], where S are those before l in a
//                    random order of the norms (Shapley 1953): of all together, E[delta^2]
//   carried_alone    E[delta({l}) delta], nothing else being heard
//   lost_without     E[(delta - delta(all but l)) delta]
//
// The latter two are at the ends of such orders. They need not add up: where a norm divides by what
// it hears, the next ones, if they hear it too, divide again.
//
// On the CPU in f64, on a GPU in f32. Writes summary.json (with all positions outside changed at
// once, in terms of E[delta^2]), and of each position alone, 0 within the field: change.npy
// [length], E[delta^2], and carried.npy [norms, length]. Returns the summary.
Json measure_paths(const PathsSettings& settings, const Localizer& network, RunFolder& folder);

}  // namespace sidechannel::experiments
