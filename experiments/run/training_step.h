#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "engine/moments.h"
#include "engine/ops.h"
#include "engine/optim/adam.h"
#include "engine/replay.h"
#include "experiments/run/run_folder.h"

namespace sidechannel::experiments {

// The experiments' streams beside the engine's two.
inline constexpr Stream kProbeWeights{2};     // initial parameters of the probes
inline constexpr Stream kProbeNoise{3};       // inputs of the probes' training
inline constexpr Stream kEvaluationNoise{4};  // inputs of maps and tests

// Averages over the steps since the last line of metrics.jsonl.
struct Window {
  Window(const Device& device, std::int64_t length) : losses(device, 1), outputs(device, length) {}
  StreamingMoments losses;
  StreamingMoments outputs;

  double loss() const { return losses.mean().as<double>()[0]; }
  void clear() {
    losses.clear();
    outputs.clear();
  }
};

// Steps since the last line of metrics.jsonl, `step` of `total` steps into a training that writes
// one every `log_every` steps and at its end.
inline std::int64_t steps_since_line(std::int64_t step, std::int64_t total,
                                     std::int64_t log_every) {
  return step == total ? 0 : step % log_every;
}

// A step of training that repeats itself: noise, forward, loss, backward, update, averages. The
// host reads nothing of it, so that steps can follow each other without waiting: it looks at
// adam().state() and window() when it wants to know. A loss or a gradient that is not finite halts
// all that follows, before the update.
class TrainingStep {
 public:
  // The predictions for a batch that is drawn where the generator stands: as many samples as one
  // likes, each of the target's size.
  using Predict = std::function<Var(Tape& tape, const Random& random)>;

  // Fits what `predict` computes with `parameters`, `batch` samples at a time, to `target` by the
  // mean squared error.
  TrainingStep(ParameterList& parameters, const HostArray& target, std::int64_t batch,
               Predict predict, const LearningRate& rate, std::uint64_t seed);

  void operator()();
  // The noise of the next step is that of step `step`.
  void seek(std::int64_t step) { random_.seek(static_cast<std::uint32_t>(step)); }

  const Adam& adam() const { return adam_; }
  Window& window() { return window_; }
  const Window& window() const { return window_; }
  // Of the last step.
  const Tensor& predictions() const { return predictions_; }
  std::size_t arena_bytes() { return tape_.arena().capacity(); }

  // What was the first that was not finite in step `step`, where training has halted (see
  // first_not_finite). Empty where the gradient is only too large to be squared.
  std::string not_finite(std::int64_t step);

  // State for exact resume: the parameters by their names, adam.* and window.*.
  void save(TensorMap& tensors) const;
  // What belongs to the state after `steps` steps, the last `windowed` of which are in the window.
  void load(const TensorMap& tensors, const std::string& source, std::int64_t steps,
            std::int64_t windowed);

 private:
  void run();

  ParameterList& parameters_;
  Tensor target_;
  std::int64_t batch_;
  Predict predict_;
  Tape tape_;
  Random random_;
  Adam adam_;
  Window window_;
  Replay replay_;
  Tensor predictions_;
};

// Whether all steps so far could be made: the host asks before it shows or keeps anything of them.
// Training halted before the update where one could not, so its state is the one that leads to that
// step, however late this is: it is kept in failure.safetensors, loading it repeats the step, and
// an Error says so, and which layer was the first to fail. (Only running statistics, which forward
// passes move, may have gone on.)
//
// `first` is the number of steps before this training's own; `add_state` adds to a state what the
// training's checkpoints hold.
AdamState look(TrainingStep& step, std::int64_t first, RunFolder& folder,
               const std::function<void(SafetensorsFile&)>& add_state);

}  // namespace sidechannel::experiments
