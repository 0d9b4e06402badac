#include "experiments/run/training_step.h"

#include <cmath>

#include "engine/finite.h"

namespace sidechannel::experiments {

TrainingStep::TrainingStep(ParameterList& parameters, const HostArray& target, std::int64_t batch,
                           Predict predict, const LearningRate& rate, std::uint64_t seed)
    : parameters_(parameters),
      target_(Tensor::from(parameters.device(), target)),
      batch_(batch),
      predict_(std::move(predict)),
      tape_(parameters.device()),
      random_(tape_.device(), seed),
      adam_(parameters, {rate}),
      window_(tape_.device(), target_.size()),
      replay_(tape_.device()) {}

void TrainingStep::operator()() {
  replay_([this] { run(); });
}

void TrainingStep::run() {
  tape_.reset();
  const Var y = predict_(tape_, random_);
  const Var loss = mse(y, target_);
  tape_.backward(loss);
  adam_.step(loss.value());
  window_.losses.add(loss.value().reshape({1, 1}), adam_.halted_flag());
  window_.outputs.add(y.value().reshape({batch_, target_.size()}), adam_.halted_flag());
  random_.advance(1);
  predictions_ = y.value();
}

std::string TrainingStep::not_finite(std::int64_t step) {
  return first_not_finite(tape_, {&parameters_}, [&] {
    seek(step);
    tape_.reset();
    tape_.backward(mse(predict_(tape_, random_), target_));
  });
}

void TrainingStep::save(TensorMap& tensors) const {
  parameters_.save(tensors);
  adam_.save(tensors, "adam");
  window_.losses.save(tensors, "window.loss");
  window_.outputs.save(tensors, "window.outputs");
}

void TrainingStep::load(const TensorMap& tensors, const std::string& source, std::int64_t steps,
                        std::int64_t windowed) {
  parameters_.load(tensors, source, LoadUnknown::kIgnore);
  adam_.load(tensors, source, "adam", steps, steps);
  window_.losses.load(tensors, source, "window.loss", windowed);
  window_.outputs.load(tensors, source, "window.outputs", windowed * batch_);
}

AdamState look(TrainingStep& step, std::int64_t first, RunFolder& folder,
               const std::function<void(SafetensorsFile&)>& add_state) {
  const AdamState adam = step.adam().state();
  if (adam.halted == 0) return adam;
  const std::int64_t at = first + adam.steps;
  SafetensorsFile state;
  state.metadata["step"] = std::to_string(at);
  state.metadata["milliseconds"] = "0";
  add_state(state);
  folder.save_state("failure.safetensors", std::move(state));
  const std::string what = step.not_finite(at);
  throw Error(fmt::format(
      "step {}: loss {}, gradient norm {}{}; stopped before the update, the "
      "state is kept in {} (try a lower --learning-rate)",
      at, number_text(std::abs(adam.loss), 5), number_text(std::abs(adam.gradient_norm()), 5),
      what.empty() ? ", whose square is beyond f32" : "; first " + what,
      folder.file("failure.safetensors").string()));
}

}  // namespace sidechannel::experiments
