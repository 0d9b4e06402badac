#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "engine/io/json.h"
#include "engine/moments.h"
#include "engine/ops.h"
#include "engine/optim/adam.h"
#include "engine/replay.h"

namespace sidechannel::experiments {

// The experiments' streams beside the engine's two.
inline constexpr Stream kProbeWeights{2};     // initial parameters of the probes
inline constexpr Stream kProbeNoise{3};       // inputs of the probes' training
inline constexpr Stream kEvaluationNoise{4};  // inputs of maps and tests

// A step of training that repeats itself: noise, forward, loss, backward, update, averages. The
// host reads nothing of it, so that steps can follow each other without waiting: it looks at
// adam().state() and measures() when it wants to know. A loss or a gradient that is not finite
// halts all that follows, before the update.
class TrainingStep {
 public:
  virtual ~TrainingStep() = default;
  TrainingStep(const TrainingStep&) = delete;
  TrainingStep& operator=(const TrainingStep&) = delete;

  void operator()();
  // The noise of the next step is that of step `step`.
  void seek(std::int64_t step) { random_.seek(static_cast<std::uint32_t>(step)); }

  const Adam& adam() const { return adam_; }
  std::size_t arena_bytes() { return tape_.arena().capacity(); }

  // What the steps since the last line of metrics.jsonl come to on average; what a line says of
  // such measures beside the phase and the step; what the progress line says of them.
  virtual std::vector<double> measures() const = 0;
  virtual Json line(const std::vector<double>& measures, const AdamState& adam) const = 0;
  virtual std::string words(const std::vector<double>& measures) const = 0;
  bool has_measures() const { return averages_.front().moments->count() > 0; }
  void clear_measures();

  // What was the first that was not finite in step `step`, where training has halted (see
  // first_not_finite). Empty where the gradient is only too large to be squared.
  std::string not_finite(std::int64_t step);

  // State for exact resume: the parameters by their names, adam.* and the averages.
  void save(TensorMap& tensors) const;
  // What belongs to the state after `steps` steps, the last `windowed` of which are in the
  // averages.
  void load(const TensorMap& tensors, const std::string& source, std::int64_t steps,
            std::int64_t windowed);

 protected:
  // Averages over the steps since the last line, each of which adds so many rows.
  struct Averages {
    const char* name;
    StreamingMoments* moments;
    std::int64_t rows;
  };

  // `frozen`: parameters that the step reads and does not train.
  TrainingStep(ParameterList& parameters, const LearningRate& rate, std::uint64_t seed,
               std::vector<const ParameterList*> frozen = {});
  void set_averages(std::vector<Averages> averages) { averages_ = std::move(averages); }

 private:
  // From the draw to the averages, at the beginning of the tape; steps `adam`, too.
  virtual void compute(Tape& tape, const Random& random, Adam& adam) = 0;
  // State beside that of every step.
  virtual void save_more(TensorMap& /*tensors*/) const {}
  virtual void load_more(const TensorMap& /*tensors*/, const std::string& /*source*/) {}
  void run();

  ParameterList& parameters_;
  std::vector<const ParameterList*> frozen_;
  Tape tape_;
  Random random_;
  Adam adam_;
  Replay replay_;
  std::vector<Averages> averages_;
};

// Fits what a network predicts to a target by the mean squared error.
class RegressionStep : public TrainingStep {
 public:
  // The predictions for a batch that is drawn where the generator stands: as many samples as one
  // likes, each of the target's size.
  using Predict = std::function<Var(Tape& tape, const Random& random)>;

  // What `predict` computes with `parameters`, `batch` samples at a time.
  RegressionStep(ParameterList& parameters, const HostArray& target, std::int64_t batch,
                 Predict predict, const LearningRate& rate, std::uint64_t seed);

  double loss() const { return losses_.mean().as<double>()[0]; }
  const StreamingMoments& outputs() const { return outputs_; }

  // By its loss.
  std::vector<double> measures() const override { return {loss()}; }
  Json line(const std::vector<double>& measures, const AdamState& adam) const override;
  std::string words(const std::vector<double>& measures) const override;
  // Of the last step.
  const Tensor& predictions() const { return predictions_; }

 private:
  void compute(Tape& tape, const Random& random, Adam& adam) override;

  Tensor target_;
  std::int64_t batch_;
  Predict predict_;
  StreamingMoments losses_;
  StreamingMoments outputs_;
  Tensor predictions_;
};

}  // namespace sidechannel::experiments
