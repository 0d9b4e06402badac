#pragma once

#include <vector>

#include "experiments/overlap/settings.h"
#include "experiments/run/run_folder.h"
#include "experiments/run/training_step.h"
#include "models/model_file.h"

namespace sidechannel::experiments {

// Section 3.2's pairs of sequences x, x~ that share `overlap` positions: x~ begins with the last
// ones of x, x~[i] = x[l - overlap + i]. Both are windows into noise of length 2 l - overlap.
class PairSource {
 public:
  PairSource(std::int64_t length, std::int64_t overlap, Stream stream)
      : length_(length), overlap_(overlap), stream_(stream) {}

  // The pairs where `random` stands, the two of a pair side by side: [2 pairs, l, 1].
  Var operator()(Tape& tape, const Random& random, std::int64_t pairs) const;

 private:
  std::int64_t length_;
  std::int64_t overlap_;
  Stream stream_;
};

// A step of training to tell the two apart: `network` is taught to answer -1 and 1.
class DistinguishStep : public RegressionStep {
 public:
  DistinguishStep(Localizer& network, const LearningRate& rate, std::int64_t pairs,
                  std::int64_t overlap, std::uint64_t seed);
};

// The training of one overlap, which may grow.
std::vector<Growth> growth_of(const OverlapSettings& settings);

// Trains a network on pairs with this overlap and tests it on fresh ones, in a folder of their own
// (config.json, metrics.jsonl, checkpoints, model.safetensors, result.json). Returns result.json:
// "overlap", "length", "mse" (mean squared error over both answers), "mean" and "variance" of the
// two answers, "pairs" tested, "seed", "seconds" and "notice" (words about a network that learned
// nothing, or null). Continues where an earlier call stopped; throws Interrupted when a signal asks
// for it. A run that begins with a file's weights finds them in the sweep's folder, in which
// `folder` lies, under kInitialModelFile.
Json distinguish(const OverlapSettings& settings, std::int64_t overlap, RunFolder& folder,
                 const Device& device);

}  // namespace sidechannel::experiments
