#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/run/settings.h"
#include "kernels/learning_rate.h"
#include "models/localizer.h"

namespace sidechannel::experiments {

// Everything that a localization run depends on. The defaults: where a preset says nothing.
struct LocalizationSettings : RunSettings {
  static constexpr const char* kExperiment = "localization";

  // The network (Equation 1) and the task (Problem 2.1).
  std::int64_t length = 64;
  std::int64_t depth = 8;
  std::int64_t channels = 32;
  std::int64_t kernel_size = 5;
  std::string norm = "instance";
  std::int64_t groups = 1;
  std::int64_t samples_per_set = 1;
  std::string input = "noise";

  // Training. A first stage at another length (a curriculum, which the paper does not have) comes
  // before the `iterations` where curriculum_iterations > 0.
  std::int64_t batch = 8;
  double learning_rate = 2e-3;
  std::string schedule = "tail";
  std::int64_t warmup = 0;
  std::int64_t iterations = 10000;
  std::int64_t curriculum_length = 0;
  std::int64_t curriculum_iterations = 0;
  double curriculum_learning_rate = 0;

  // Probes, one for each hidden layer; for the last alone, or none, where the output is enough.
  std::string probes = "all";
  std::int64_t probe_width = 256;
  std::int64_t probe_batch = 8;
  std::int64_t probe_iterations = 2000;
  double probe_learning_rate = 1e-3;
  std::string probe_schedule = "constant";

  // The localization map.
  std::int64_t map_samples = 20000;
  double p_threshold = 0.1;
  std::string eval_statistics = "minibatch";

  static std::span<const OnlyWhen<LocalizationSettings>> only_when();
  // UsageError for values that make no sense, alone or together.
  void check() const;

  LocalizerConfig network() const;
  // How the learning rate moves: over the first stage, the training proper, the probes' training.
  kernels::LearningRate curriculum_rate() const;
  kernels::LearningRate training_rate() const;
  kernels::LearningRate probe_rate() const;
  // Where probes and maps take their statistics from.
  Statistics evaluation_statistics() const;
  // The hidden layers that are probed, ascending: of 1 .. d-1.
  std::vector<std::int64_t> probed_layers() const;
  std::int64_t total_iterations() const { return curriculum_iterations + iterations; }

  template <class Self, class Visit>
  static void for_each(Self& s, const Visit& visit) {
    visit("length", s.length, Whole{1, kMostLength}, "sequence length l");
    visit("depth", s.depth, Whole{2, kMostDepth}, "convolutions d in all, first and last included");
    visit("channels", s.channels, Whole{1, kMostChannels}, "hidden channels h");
    visit("kernel_size", s.kernel_size, Whole{1, kMostKernelSize, true}, "kernel size k");
    visit("norm", s.norm, OneOf{norm_names()}, "the normalization");
    visit("groups", s.groups, Whole{1, kMostChannels}, "groups G of group norm");
    visit("samples_per_set", s.samples_per_set, Whole{1, kMostBatch},
          "samples that share batch norm's statistics");
    visit("input", s.input, OneOf{{"noise", "constant"}},
          "what the network hears; constant: 1 everywhere, which tells nothing");
    visit("batch", s.batch, Whole{1, kMostBatch}, "sequences in a training step");
    visit("learning_rate", s.learning_rate, Real{kLowestRate, kHighestRate, true},
          "Adam's base learning rate");
    visit("schedule", s.schedule, OneOf{{"constant", "tail"}},
          "how it moves; tail: 70 % constant, then linear to 5 %");
    visit("warmup", s.warmup, Whole{0, kMostSteps}, "steps of linear warm-up");
    visit("iterations", s.iterations, Whole{1, kMostSteps}, "training steps");
    visit("curriculum_length", s.curriculum_length, Whole{0, kMostLength},
          "sequence length of a first stage");
    visit("curriculum_iterations", s.curriculum_iterations, Whole{0, kMostSteps},
          "steps of the first stage, 0 for none");
    visit("curriculum_learning_rate", s.curriculum_learning_rate, Real{0, kHighestRate, true},
          "its learning rate, constant");
    visit("probes", s.probes, OneOf{{"all", "last", "none"}},
          "which hidden layers get one and appear in the map");
    visit("probe_width", s.probe_width, Whole{1, kMostChannels},
          "width of the probes' two hidden layers");
    visit("probe_batch", s.probe_batch, Whole{1, kMostBatch},
          "sequences in a step of the probes' training");
    visit("probe_iterations", s.probe_iterations, Whole{1, kMostSteps},
          "steps of the probes' training");
    visit("probe_learning_rate", s.probe_learning_rate, Real{kLowestRate, kHighestRate, true},
          "Adam's base learning rate for the probes");
    visit("probe_schedule", s.probe_schedule, OneOf{{"constant", "tail"}}, "how that moves");
    visit("map_samples", s.map_samples, Whole{2, kMostSteps},
          "sequences behind the localization map");
    visit("p_threshold", s.p_threshold, Real{0, 1, false, false},
          "Welch's test rejects below this p-value");
    visit("eval_statistics", s.eval_statistics, OneOf{{"minibatch", "population"}},
          "of norm, for probes and map; population: the running ones of batch norm");
    RunSettings::for_each(s, visit);
  }
};

}  // namespace sidechannel::experiments
