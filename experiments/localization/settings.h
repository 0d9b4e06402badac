#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "experiments/localization/input.h"
#include "experiments/run/settings.h"
#include "experiments/run/unet_settings.h"
#include "models/localizer.h"
#include "models/temporal_unet.h"

namespace sidechannel::experiments {

inline constexpr std::int64_t kMostRank = 1000;  // of low-rank input, whose waves are all kept

// Everything that a localization run depends on. The defaults: where a preset says nothing.
struct LocalizationSettings : RunSettings {
  using Self = LocalizationSettings;
  static constexpr const char* kExperiment = "localization";

  // The network: Equation 1, or the temporal U-Net.
  SETTING(
      std::string, network, "localizer",
      "that of Equation 1; or the temporal U-Net of Janner et al., with --channels in its first "
      "level",
      OneOf{{"localizer", "unet"}}, Section{"Network"});
  SETTING(std::string, multipliers, "1,2", "of a U-Net's channels, for each level", kMultipliers,
          OnlyWhen{"--network unet", &Self::is_unet}, Alias{"dim-mults"});
  SETTING(std::int64_t, depth, 8, "convolutions d in all, first and last included",
          Whole{2, kMostDepth}, OnlyWhen{"--network localizer", &Self::is_localizer},
          Alias{"layers"});
  SETTING(std::int64_t, channels, 32, "hidden channels h", Whole{1, kMostChannels});
  SETTING(std::int64_t, kernel_size, 5, "kernel size k", Whole{1, kMostKernelSize, true});
  SETTING(std::string, padding, "zeros",
          "what convolutions find beyond the ends; circular: the sequence once more, as in a ring",
          OneOf{padding_names()}, kPredicts);
  SETTING(std::string, norm, "instance", "the normalization", OneOf{norm_names()}, kPredicts);
  SETTING(std::int64_t, groups, 1, "groups G of group norms", Whole{1, kMostChannels}, kPredicts,
          OnlyWhen{"--norm group or group_population", &Self::has_groups}, Alias{"num-groups"});
  SETTING(std::int64_t, samples_per_set, 1, "samples that share batch norm's statistics",
          Whole{1, kMostBatch}, kPredicts, OnlyWhen{"--norm batch", &Self::has_sets});
  SETTING(std::string, initial_biases, "uniform",
          "of the convolutions; uniform, as their weights: PyTorch's", OneOf{{"uniform", "zero"}});

  // The task: Problem 2.1.
  SETTING(std::int64_t, length, 64, "sequence length l", Whole{1, kMostLength}, Section{"Data"},
          Alias{"seq-len"});
  SETTING(
      std::string, input, "noise",
      "what the network hears; constant: 1 everywhere, which tells nothing; periodic: noise that "
      "comes back; low-rank: waves, as many numbers as a sequence has free",
      OneOf{input_names()});
  SETTING(std::int64_t, period, 16, "after how many positions periodic input comes back",
          Whole{1, kMostLength}, OnlyWhen{"--input periodic", &Self::has_period});
  SETTING(std::int64_t, rank, 16, "how many free numbers a sequence of low-rank input has",
          Whole{1, kMostRank}, OnlyWhen{"--input low-rank", &Self::has_rank});

  // Training. A first stage at another length (a curriculum, which the paper does not have) comes
  // before the `iterations` where curriculum_iterations > 0.
  SETTING(std::int64_t, batch, 8, "sequences in a training step", Whole{1, kMostBatch},
          Section{"Training"}, Alias{"batch-size"});
  SETTING(double, learning_rate, 2e-3, "Adam's base learning rate",
          Real{kLowestRate, kHighestRate, true}, Alias{"lr"});
  SETTING(std::string, schedule, "tail",
          "how the learning rate moves; tail: 70 % constant, then linear to 5 %",
          OneOf{{"constant", "tail"}}, Alias{"lr-schedule"});
  SETTING(std::int64_t, warmup, 0, "steps of linear warm-up", Whole{0, kMostSteps},
          Alias{"warmup-steps"});
  SETTING(std::int64_t, iterations, 10000, "training steps; a run may be given more later",
          Whole{1, kMostSteps}, Alias{"steps"});
  SETTING(std::int64_t, curriculum_length, 0, "sequence length of a first stage",
          Whole{0, kMostLength}, OnlyWhen{"--curriculum-iterations", &Self::has_curriculum});
  SETTING(std::int64_t, curriculum_iterations, 0, "steps of the first stage, 0 for none",
          Whole{0, kMostSteps}, Alias{"curriculum-steps"});
  SETTING(double, curriculum_learning_rate, 0, "its learning rate, constant",
          Real{0, kHighestRate, true}, OnlyWhen{"--curriculum-iterations", &Self::has_curriculum},
          Alias{"curriculum-lr"});

  // Probes, one for each hidden layer; for the last alone, or none, where the output is enough.
  SETTING(std::string, probes, "all", "which hidden layers get one and appear in the map",
          OneOf{{"all", "last", "none"}}, Section{"Probes"});
  SETTING(std::int64_t, probe_width, 256, "width of the probes' two hidden layers",
          Whole{1, kMostChannels}, only_with_probes());
  SETTING(std::int64_t, probe_batch, 8, "sequences in a step of the probes' training",
          Whole{1, kMostBatch}, only_with_probes(), Alias{"probe-batch-size"});
  SETTING(std::int64_t, probe_iterations, 2000,
          "steps of the probes' training; it may be given more", Whole{1, kMostSteps},
          only_with_probes(), Alias{"probe-steps"});
  SETTING(double, probe_learning_rate, 1e-3, "Adam's base learning rate for the probes",
          Real{kLowestRate, kHighestRate, true}, only_with_probes(), Alias{"probe-lr"});
  SETTING(std::string, probe_schedule, "constant", "how the probes' learning rate moves",
          OneOf{{"constant", "tail"}}, only_with_probes(), Alias{"probe-lr-schedule"});

  // The localization map.
  SETTING(std::int64_t, map_samples, 20000, "sequences behind the localization map",
          Whole{2, kMostSteps}, Section{"Map"});
  SETTING(double, p_threshold, 0.1, "Welch's test rejects below this p-value",
          Real{0, 1, false, false});
  SETTING(std::string, eval_statistics, "minibatch",
          "of norm, for probes and map; population: the running ones of batch or group_population",
          OneOf{{"minibatch", "population"}}, kPredicts);

  bool is_unet() const { return network == "unet"; }
  bool is_localizer() const { return !is_unet(); }
  bool has_groups() const { return info_of(norm_kind_from(norm)).has_groups; }
  bool has_sets() const { return norm == "batch"; }
  bool has_period() const { return input == "periodic"; }
  bool has_rank() const { return input == "low-rank"; }
  bool has_curriculum() const { return curriculum_iterations > 0; }
  bool has_probes() const { return probes != "none"; }
  static OnlyWhen<Self> only_with_probes() {
    return {.needs = "--probes all or last", .effective = &Self::has_probes, .may_idle = true};
  }

  // UsageError for values that make no sense, alone or together.
  void check() const;

  LocalizerConfig localizer() const;
  TemporalUnetConfig unet() const;
  // With its initial weights.
  std::unique_ptr<Network> make_network(const Device& on_device) const;
  // How far the network hears, the side further off: positions nearer to an end see it.
  std::int64_t radius() const;
  // What the network gives: hidden activations and its output, which is the last layer; a U-Net's
  // hidden ones are not counted as layers.
  std::int64_t activations() const { return is_unet() ? 4 * unet().levels() + 1 : depth; }
  std::int64_t output_layer() const { return is_unet() ? 1 : depth; }
  // Samples whose statistics belong together.
  std::int64_t samples_of_set() const { return has_sets() ? samples_per_set : 1; }
  InputOptions input_options() const { return {input, period, rank}; }
  // How the learning rate moves: over the first stage, the training proper, the probes' training.
  LearningRate curriculum_rate() const { return {.base = curriculum_learning_rate}; }
  LearningRate training_rate() const {
    return learning_rate_from(learning_rate, schedule, warmup, iterations);
  }
  LearningRate probe_rate() const {
    return learning_rate_from(probe_learning_rate, probe_schedule, 0, probe_iterations);
  }
  // Where probes and maps take their statistics from.
  Statistics evaluation_statistics() const;
  // The hidden layers that are probed, ascending: of 1 .. d-1.
  std::vector<std::int64_t> probed_layers() const;
  std::int64_t total_iterations() const { return curriculum_iterations + iterations; }
};

}  // namespace sidechannel::experiments
