#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "experiments/run/phase.h"
#include "experiments/run/training_step.h"

namespace sidechannel::experiments {

// A training: its steps, and what they are called.
struct TrainingPlan {
  const char* phase;       // its name in metrics.jsonl and on the progress line
  const char* state_file;  // the checkpoint's name in the folder
  std::int64_t steps;      // in all
  // A state keeps the last line's measures, so many, beside those of the step...
  std::size_t kept = 0;
  // ... and one that leads to a step that could not be made is kept in failure.safetensors.
  bool keeps_failure = true;
  std::int64_t second_stage = 0;  // its first step, where a training has two (a curriculum)
  // What makes the steps of the stage that begins with step `first`.
  std::function<std::unique_ptr<TrainingStep>(std::int64_t first)> make_step;
  // Called after each step, with how many have been made; may be empty. A step that is made again
  // after an interruption is followed by it again.
  std::function<void(std::int64_t done)> after = {};
};

// The loop of a training: steps that follow each other, a line of metrics.jsonl every `log_every`
// of them and after the last, and checkpoints from which it goes on to the same bytes. The last
// state is one of a longer training, too: its averages are those since the last such line.
//
// Before anything of the steps is shown or kept the loop asks whether all could be made. Training
// halted before the update where one could not, so its state is the one that leads to that step,
// however late this is (only running statistics, which forward passes move, may have gone on): an
// Error says which step and what in it was the first to fail.
class TrainingLoop : public Phase {
 public:
  TrainingLoop(const RunSettings& settings, RunFolder& folder, TrainingPlan plan);

  // The measures in the last line, or in the state that a resumed run began with.
  const std::vector<double>& shown() const { return shown_; }

 private:
  void step(std::int64_t step) override;
  std::string details() override;
  void save(SafetensorsFile& state) override;
  void load(const SafetensorsFile& state, const std::string& source, std::int64_t step) override;

  std::int64_t first_of_stage(std::int64_t step) const;
  void enter_stage(std::int64_t first);
  AdamState look();
  Error failure(std::int64_t step, const AdamState& adam);
  void add_state(SafetensorsFile& state) const;

  TrainingPlan plan_;
  std::int64_t log_every_;
  std::int64_t first_ = 0;  // step of the stage
  std::unique_ptr<TrainingStep> step_;
  std::vector<double> shown_;
  std::size_t last_line_bytes_ = 0;  // see kLastLineBytes
};

}  // namespace sidechannel::experiments
