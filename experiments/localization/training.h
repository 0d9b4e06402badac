#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "experiments/localization/settings.h"
#include "experiments/run/run_folder.h"
#include "experiments/run/training_step.h"
#include "models/model_file.h"

namespace sidechannel::experiments {

// The target of Problem 2.1: y_i = i / (length - 1) - 1/2 for i from 0. [length]; 0 for length 1.
HostArray target_positions(std::int64_t length);

// Regression slope of `mean` [length] on the target over the interior [radius, length - radius):
// 1 for a network that knows where it is, 0 for one that does not. NaN when fewer than two indices
// lie there.
double interior_slope(const HostArray& mean, std::int64_t radius);

// A step of training for Problem 2.1: `network` is taught to answer target_positions(length).
class LocalizationStep : public RegressionStep {
 public:
  LocalizationStep(Network& network, const LearningRate& rate, std::int64_t batch,
                   std::int64_t length, std::uint64_t seed, const InputOptions& input = {});

  // The interior slope of the mean output, the outputs' mean deviation between samples, the loss.
  std::vector<double> measures() const override;
  Json line(const std::vector<double>& measures, const AdamState& adam) const override;
  std::string words(const std::vector<double>& measures) const override;

 private:
  std::int64_t radius_;
};

// What makes the steps of a run from step `first` on, which begins its first stage or its second.
std::unique_ptr<LocalizationStep> step_of_run(const LocalizationSettings& settings,
                                              Network& network, std::int64_t first);

// A trained network and how it came about.
struct TrainingResult {
  double seconds = 0;
  // Words about a run that learned nothing, empty otherwise (see training_notice).
  std::string notice;
};

// Trains `network`, which has its initial weights, as `settings` say, in `folder`:
// model-initial.safetensors before the first step, metrics.jsonl, checkpoint.safetensors and, at
// the end, model.safetensors. Continues where an earlier call stopped. `from`: see begin().
TrainingResult train(const LocalizationSettings& settings, Network& network, RunFolder& folder,
                     const Network* from = nullptr);

// Words about a network that has learned nothing, of whatever shape the failure is: a loss hardly
// below that of answering the mean position everywhere, measured by what there is to gain: all of
// it where the network can hear positions, else those that its receptive field shows. Or, where it
// can hear them, an interior slope near 0 (NaN where there is no interior). Empty for one that has
// learned, and where there is nothing to learn.
std::string training_notice(const LocalizationSettings& settings, double loss, double slope);

}  // namespace sidechannel::experiments
