#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/diffusion/corridors.h"
#include "experiments/run/memory.h"
#include "experiments/run/settings.h"
#include "experiments/run/unet_settings.h"
#include "models/temporal_unet.h"

namespace sidechannel::experiments {

// Everything that a diffusion run depends on. The defaults: where a preset says nothing.
struct DiffusionSettings : RunSettings {
  using Self = DiffusionSettings;
  static constexpr const char* kExperiment = "diffusion";

  // The corridors and the plans (see Corridors).
  SETTING(std::int64_t, side, 4, "junctions along a side of the town", Whole{2, 16},
          Section{"Data"});
  SETTING(std::int64_t, corridors, 5, "corridors of a plan", Whole{1, 64});
  SETTING(std::int64_t, steps_per_corridor, 7, "steps of a walker in each", Whole{1, 1024});
  SETTING(std::int64_t, walks, 256, "walks of training data", Whole{1, kMostBatch});
  SETTING(std::int64_t, walk_corridors, 64, "corridors of each", Whole{2, 4096});
  SETTING(double, held_out, 0.25, "share of the pairs of start and goal that training never sees",
          Real{0, 1, true, false});

  // The temporal U-Net.
  SETTING(std::int64_t, dim, 16, "channels of the U-Net's first level", Whole{4, kMostChannels},
          Section{"Network"});
  SETTING(std::string, multipliers, "1,2", "of its channels, for each level", kMultipliers,
          Alias{"dim-mults"});
  SETTING(std::int64_t, kernel_size, 3, "kernel size of its blocks",
          Whole{1, kMostKernelSize, true});
  SETTING(std::string, norm, "group", "the normalization", OneOf{norm_names()});
  SETTING(std::int64_t, groups, 4, "groups G of group norm", Whole{1, kMostChannels},
          OnlyWhen{"--norm group or group_population", &Self::has_groups}, Alias{"num-groups"});

  // The diffusion, and its training.
  SETTING(std::int64_t, steps, 20, "steps T of the diffusion", Whole{1, kMostDiffusionSteps},
          Section{"Training"}, Alias{"timesteps,diffusion-steps"});
  SETTING(std::int64_t, batch, 32, "plans in a training step", Whole{1, kMostBatch},
          Alias{"batch-size"});
  SETTING(double, learning_rate, 1e-3, "Adam's base learning rate",
          Real{kLowestRate, kHighestRate, true}, Alias{"lr"});
  SETTING(std::string, schedule, "tail",
          "how the learning rate moves; tail: 70 % constant, then linear to 5 %",
          OneOf{{"constant", "tail"}}, Alias{"lr-schedule"});
  SETTING(std::int64_t, warmup, 0, "steps of linear warm-up", Whole{0, kMostSteps},
          Alias{"warmup-steps"});
  SETTING(std::int64_t, iterations, 4000, "training steps; a run may be given more later",
          Whole{1, kMostSteps}, Alias{"train-steps"});
  SETTING(double, ema_decay, 0.995, "of the average of the weights, which plans", Real{0, 1, true});
  SETTING(std::int64_t, ema_every, 10, "training steps between its updates", Whole{1, kMostSteps});
  SETTING(std::int64_t, ema_from, 500, "training steps until it begins", Whole{0, kMostSteps});

  // The evaluation.
  SETTING(std::int64_t, pairs, 32, "pairs of each kind that are planned for", Whole{1, 4096},
          Section{"Evaluation"});
  SETTING(std::int64_t, plans, 8, "plans for each", Whole{1, kMostBatch});
  SETTING(std::int64_t, leak_outputs, 8, "output positions that the leak is asked at",
          Whole{1, kMostLength});
  SETTING(std::int64_t, leak_inputs, 4, "plans that it is measured on", Whole{1, 4096});

  bool has_groups() const { return info_of(norm_kind_from(norm)).has_groups; }

  // UsageError for values that make no sense, alone or together.
  void check() const;

  std::int64_t horizon() const { return world().horizon(); }
  CorridorsConfig world() const;
  TemporalUnetConfig network() const;
  LearningRate training_rate() const {
    return learning_rate_from(learning_rate, schedule, warmup, iterations);
  }
};

MemoryNeed memory_of(const DiffusionSettings& settings);

}  // namespace sidechannel::experiments
