#pragma once

#include <cstdint>
#include <string>

#include "experiments/run/run_folder.h"
#include "experiments/run/settings.h"

namespace sidechannel::experiments {

// One resumable phase of a run: a loop of steps with checkpoints in between. TrainingLoop and
// EvaluationLoop are the two that there are.
class Phase {
 public:
  virtual ~Phase() = default;
  Phase(const Phase&) = delete;
  Phase& operator=(const Phase&) = delete;

  // Makes what is left of the phase and returns the seconds that it took, those before an
  // interruption included; all of it where its state has become obsolete (see Growth). Writes a
  // state before the first step, so that a disk that cannot be written to shows at once, then
  // regularly, and at the end. A signal ends it with a state and Interrupted; a NaN or an infinity
  // in a state, one that is read or one to be saved, with an Error that names it.
  double run();

 protected:
  // `settings` say how it is carried out; `name` and `unit`, of a step, are for the progress line.
  Phase(const RunSettings& settings, RunFolder& folder, std::string name, std::string state_file,
        std::string unit, std::int64_t steps);

  RunFolder& folder() { return folder_; }
  std::int64_t steps() const { return steps_; }  // to do in all

 private:
  virtual void step(std::int64_t step) = 0;  // counted from 0
  virtual std::string details() = 0;         // for the progress line
  // Adds the phase's own state.
  virtual void save(SafetensorsFile& state) = 0;
  // Takes back what belongs to the state after `step` steps; an Error that begins with `source`
  // where it is not that.
  virtual void load(const SafetensorsFile& state, const std::string& source, std::int64_t step) = 0;

  const RunSettings& settings_;
  RunFolder& folder_;
  std::string name_;
  std::string state_file_;  // the checkpoint's name in the folder
  std::string unit_;
  std::int64_t steps_;
};

}  // namespace sidechannel::experiments
