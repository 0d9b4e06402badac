#pragma once

#include <cstdint>
#include <string>

#include "experiments/run/settings.h"
#include "experiments/run/unet_settings.h"
#include "models/model_file.h"
#include "models/temporal_unet.h"

namespace sidechannel::experiments {

// What `leak` asks, of a network in a file or, where there is none, of a temporal U-Net with its
// initial weights.
struct LeakSettings : RunSettings {
  using Self = LeakSettings;
  static constexpr const char* kExperiment = "leak";

  // What is measured, and on what.
  SETTING(std::int64_t, length, 0, "positions of an input; 0: twice what the network hears",
          Whole{0, kMostLength}, Section{"Data"}, Alias{"seq-len"});
  SETTING(std::int64_t, inputs, 4, "inputs of noise, over which sums run", Whole{1, kMostBatch});
  SETTING(std::int64_t, outputs, 16, "output positions that are asked, evenly spaced",
          Whole{1, kMostLength}, Section{"Measurement"});
  SETTING(std::string, dtype, "auto", "of all numbers; auto: f64 on the CPU, f32 on a GPU",
          OneOf{{"auto", "f32", "f64"}});
  SETTING(std::int64_t, step, 0, "of the diffusion, that a temporal U-Net is asked at",
          Whole{0, kMostDiffusionSteps - 1});
  SETTING(std::int64_t, tile, 0, "positions of a tile, to be compared with the whole; 0: not asked",
          Whole{0, kMostLength});
  SETTING(std::int64_t, halo, 0, "positions beyond each end of a tile that are heard, not kept",
          Whole{0, kMostLength}, OnlyWhen{"--tile", &Self::has_tiles});
  SETTING(std::int64_t, pad, 0, "zeros behind the input, to be compared with none; 0: not asked",
          Whole{0, kMostLength});

  // What a file from PyTorch does not say; or a temporal U-Net with its initial weights.
  SETTING(std::string, norm, "group", "the normalization", OneOf{norm_names()}, Section{"Network"});
  SETTING(std::int64_t, groups, 8, "groups of group norm", Whole{1, kMostChannels},
          OnlyWhen{"--norm group or group_population", &Self::has_groups}, Alias{"num-groups"});
  SETTING(std::int64_t, samples_per_set, 1, "samples that share batch norm's statistics",
          Whole{1, kMostBatch}, OnlyWhen{"--norm batch", &Self::has_sets});
  SETTING(std::string, padding, "zeros", "what a localizer's convolutions find beyond the ends",
          OneOf{padding_names()});
  SETTING(std::int64_t, transition, 6, "channels of a U-Net's trajectory", Whole{1, kMostChannels});
  SETTING(std::int64_t, dim, 32, "channels of a U-Net's first level", Whole{4, kMostChannels});
  SETTING(std::string, multipliers, "1,4,8", "of its channels, for each level", kMultipliers,
          Alias{"dim-mults"});
  SETTING(std::int64_t, kernel_size, 5, "kernel size of its blocks",
          Whole{1, kMostKernelSize, true});

  bool has_tiles() const { return tile > 0; }
  bool has_groups() const { return info_of(norm_kind_from(norm)).has_groups; }
  bool has_sets() const { return norm == "batch"; }
  TemporalUnetConfig unet() const;
  // UsageError for settings that make no sense.
  void check() const;
};

}  // namespace sidechannel::experiments
