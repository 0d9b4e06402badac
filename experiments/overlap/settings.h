#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/run/settings.h"
#include "models/localizer.h"

namespace sidechannel::experiments {

// Everything that the overlap experiment depends on. The defaults: where a preset says nothing.
struct OverlapSettings : RunSettings {
  static constexpr const char* kExperiment = "overlap";

  // The network of Section 3.2; its depth and kernel size give the sequences' length.
  std::int64_t depth = 8;
  std::int64_t channels = 32;
  std::int64_t kernel_size = 5;

  // Training and testing, of one network an overlap.
  std::int64_t batch = 16;
  double learning_rate = 1e-3;
  std::string schedule = "constant";
  std::int64_t warmup = 0;
  std::int64_t iterations = 3000;
  std::int64_t test_pairs = 8192;

  // Which overlaps, and how many networks at once: a folder may be given more of them, and others
  // of these.
  std::string overlaps = "0:32:4,33";
  std::int64_t jobs = 0;

  static std::vector<std::string> do_not_matter();

  static std::span<const OnlyWhen<OverlapSettings>> only_when() { return {}; }
  // UsageError for values that make no sense, alone or together.
  void check() const;

  LocalizerConfig network() const { return LocalizerConfig::packed(depth, channels, kernel_size); }
  std::int64_t length() const { return network().length(); }
  kernels::LearningRate training_rate() const {
    return learning_rate_from(learning_rate, schedule, warmup, iterations);
  }
  // In rising order, each once.
  std::vector<std::int64_t> overlap_list() const;

  template <class Self, class Visit>
  static void for_each(Self& s, const Visit& visit) {
    visit("depth", s.depth, Whole{2, kMostDepth}, "convolutions d in all, first and last included");
    visit("channels", s.channels, Whole{1, kMostChannels}, "hidden channels h");
    visit("kernel_size", s.kernel_size, Whole{1, kMostKernelSize, true},
          "kernel size k; sequences have 1 + 2 floor(k / 2) d");
    visit("batch", s.batch, Whole{1, kMostBatch}, "pairs in a training step");
    visit("learning_rate", s.learning_rate, Real{kLowestRate, kHighestRate, true},
          "Adam's base learning rate");
    visit("schedule", s.schedule, OneOf{{"constant", "tail"}},
          "how it moves; tail: 70 % constant, then linear to 5 %");
    visit("warmup", s.warmup, Whole{0, kMostSteps}, "steps of linear warm-up");
    visit("iterations", s.iterations, Whole{1, kMostSteps}, "training steps, for each overlap");
    visit("test_pairs", s.test_pairs, Whole{2, kMostSteps},
          "fresh pairs behind each mean squared error");
    visit("overlaps", s.overlaps, Text{"overlaps and ranges FIRST:LAST:STEP, as in 0:32:4,33"},
          "which overlaps: a list");
    visit("jobs", s.jobs, Whole{0, kMostThreads}, "networks at once, 0 for what is fastest");
    RunSettings::for_each(s, visit);
  }
};

}  // namespace sidechannel::experiments
