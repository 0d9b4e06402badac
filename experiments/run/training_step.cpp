#include "experiments/run/training_step.h"

#include <utility>

#include "engine/finite.h"
#include "experiments/run/progress.h"

namespace sidechannel::experiments {

TrainingStep::TrainingStep(ParameterList& parameters, const LearningRate& rate, std::uint64_t seed,
                           std::vector<const ParameterList*> frozen)
    : parameters_(parameters),
      frozen_(std::move(frozen)),
      tape_(parameters.device()),
      random_(tape_.device(), seed),
      adam_(parameters, {rate}),
      replay_(tape_.device()) {}

void TrainingStep::operator()() {
  replay_([this] { run(); });
}

void TrainingStep::run() {
  tape_.reset();
  compute(tape_, random_, adam_);
  random_.advance(1);
}

void TrainingStep::clear_measures() {
  for (const Averages& averages : averages_) averages.moments->clear();
}

std::string TrainingStep::not_finite(std::int64_t step) {
  std::vector<const ParameterList*> lists = frozen_;
  lists.push_back(&parameters_);
  seek(step);
  return first_not_finite(tape_, lists, [this] { run(); });
}

void TrainingStep::save(TensorMap& tensors) const {
  parameters_.save(tensors);
  adam_.save(tensors, "adam");
  for (const Averages& averages : averages_) averages.moments->save(tensors, averages.name);
  save_more(tensors);
}

void TrainingStep::load(const TensorMap& tensors, const std::string& source, std::int64_t steps,
                        std::int64_t windowed) {
  parameters_.load(tensors, source, LoadUnknown::kIgnore);
  adam_.load(tensors, source, "adam", steps, steps);
  for (const Averages& averages : averages_) {
    averages.moments->load(tensors, source, averages.name, windowed * averages.rows);
  }
  load_more(tensors, source);
}

RegressionStep::RegressionStep(ParameterList& parameters, const HostArray& target,
                               std::int64_t batch, Predict predict, const LearningRate& rate,
                               std::uint64_t seed)
    : TrainingStep(parameters, rate, seed),
      target_(Tensor::from(parameters.device(), target)),
      batch_(batch),
      predict_(std::move(predict)),
      losses_(parameters.device(), 1),
      outputs_(parameters.device(), target_.size()) {
  set_averages({{"window.loss", &losses_, 1}, {"window.outputs", &outputs_, batch}});
}

void RegressionStep::compute(Tape& tape, const Random& random, Adam& adam) {
  const Var y = predict_(tape, random);
  const Var loss = mse(y, target_);
  tape.backward(loss);
  adam.step(loss.value());
  losses_.add(loss.value().reshape({1, 1}), adam.halted_flag());
  outputs_.add(y.value().reshape({batch_, target_.size()}), adam.halted_flag());
  predictions_ = y.value();
}

Json RegressionStep::line(const std::vector<double>& measures, const AdamState& adam) const {
  return {{"loss", measures.front()},
          {"learning_rate", adam.learning_rate},
          {"gradient_norm", adam.gradient_norm()}};
}

std::string RegressionStep::words(const std::vector<double>& measures) const {
  return "loss " + number_text(measures.front(), 4);
}

}  // namespace sidechannel::experiments
