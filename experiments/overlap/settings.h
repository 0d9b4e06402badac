#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "experiments/run/memory.h"
#include "experiments/run/settings.h"
#include "models/localizer.h"

namespace sidechannel::experiments {

// Whichever overlaps there may be.
inline const Text kOverlaps{
    kRanges, [](const std::string& text) { return !ranges_in(text).empty(); }, "LIST"};

// Everything that the overlap experiment depends on. The defaults: where a preset says nothing.
struct OverlapSettings : RunSettings {
  using Self = OverlapSettings;
  static constexpr const char* kExperiment = "overlap";

  // The network of Section 3.2; its depth and kernel size give the sequences' length.
  SETTING(std::int64_t, depth, 8, "convolutions d in all, first and last included",
          Whole{2, kMostDepth}, Section{"Network"}, Alias{"layers"});
  SETTING(std::int64_t, channels, 32, "hidden channels h", Whole{1, kMostChannels});
  SETTING(std::int64_t, kernel_size, 5, "kernel size k; sequences have 1 + 2 floor(k / 2) d",
          Whole{1, kMostKernelSize, true});

  // Training and testing, of one network an overlap.
  SETTING(std::int64_t, batch, 16, "pairs in a training step", Whole{1, kMostBatch},
          Section{"Training"}, Alias{"batch-size"});
  SETTING(double, learning_rate, 1e-3, "Adam's base learning rate",
          Real{kLowestRate, kHighestRate, true}, Alias{"lr"});
  SETTING(std::string, schedule, "constant",
          "how the learning rate moves; tail: 70 % constant, then linear to 5 %",
          OneOf{{"constant", "tail"}}, Alias{"lr-schedule"});
  SETTING(std::int64_t, warmup, 0, "steps of linear warm-up", Whole{0, kMostSteps},
          Alias{"warmup-steps"});
  SETTING(std::int64_t, iterations, 3000,
          "training steps, for each overlap; a run may be given more later", Whole{1, kMostSteps},
          Alias{"steps"});
  SETTING(std::int64_t, test_pairs, 8192, "fresh pairs behind each mean squared error",
          Whole{2, kMostSteps}, Section{"Test"});

  // Which overlaps, and how many networks at once: a folder may be given more of them, and others
  // of these.
  SETTING(std::string, overlaps, "0..32:4,33", "which overlaps", kOverlaps, kHow, Section{"Data"});
  SETTING(std::int64_t, jobs, 0, "networks at once, 0 for what is fastest", Whole{0, kMostThreads},
          kHow, Section{"How it is carried out"});

  // UsageError for values that make no sense, alone or together.
  void check() const;
  void check_network() const;  // but for which overlaps there are

  LocalizerConfig network() const { return LocalizerConfig::packed(depth, channels, kernel_size); }
  std::int64_t length() const { return network().length(); }
  LearningRate training_rate() const {
    return learning_rate_from(learning_rate, schedule, warmup, iterations);
  }
  // In rising order, each once.
  std::vector<std::int64_t> overlap_list() const;
};

// Of one network: what makes it, without how many others there are. `beginning`, where not null:
// what it begins with (see beginning_with).
Json settings_of(const OverlapSettings& settings, std::int64_t overlap,
                 const Json& beginning = Json());

// Of one network.
MemoryNeed memory_of(const OverlapSettings& settings);

}  // namespace sidechannel::experiments
