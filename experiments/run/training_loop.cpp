#include "experiments/run/training_loop.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/io/safetensors.h"
#include "experiments/run/progress.h"

namespace sidechannel::experiments {

TrainingLoop::TrainingLoop(const RunSettings& settings, RunFolder& folder, TrainingPlan plan)
    : Phase(settings, folder, plan.phase, plan.state_file, "it", plan.steps),
      plan_(std::move(plan)),
      log_every_(settings.log_every),
      shown_(plan_.kept) {}

std::int64_t TrainingLoop::first_of_stage(std::int64_t step) const {
  return step < plan_.second_stage ? 0 : plan_.second_stage;
}

void TrainingLoop::enter_stage(std::int64_t first) {
  first_ = first;
  step_ = plan_.make_step(first);
  step_->seek(first);
}

void TrainingLoop::step(std::int64_t step) {
  if (const std::int64_t first = first_of_stage(step); first != first_) {
    look();
    enter_stage(first);
  }
  (*step_)();
  const std::int64_t done = step + 1;
  if (plan_.after) plan_.after(done);
  const bool last = done % log_every_ != 0;  // a line that only the end of the training asks for
  if (last && done != steps()) return;
  const AdamState adam = look();
  shown_ = step_->measures();
  Json all{{"phase", plan_.phase}, {"step", done}};
  all.update(step_->line(shown_, adam));
  folder().log(all);
  if (last) {
    last_line_bytes_ = json_text(all).size() + 1;
  } else {
    step_->clear_measures();
  }
}

std::string TrainingLoop::details() {
  look();
  return step_->words(step_->has_measures() ? step_->measures() : shown_);
}

void TrainingLoop::save(SafetensorsFile& state) {
  if (step_ == nullptr) enter_stage(0);  // a training that begins
  look();
  add_state(state);
  if (last_line_bytes_ > 0) state.metadata[kLastLineBytes] = std::to_string(last_line_bytes_);
}

void TrainingLoop::load(const SafetensorsFile& state, const std::string& source,
                        std::int64_t step) {
  // The state after step n was saved in the stage of step n - 1.
  enter_stage(first_of_stage(std::max<std::int64_t>(step - 1, 0)));
  step_->seek(step);
  // Earlier versions began a window after the last line, whichever it was.
  const bool cleared = step == steps() && !state.metadata.contains(kLastLineBytes);
  const std::int64_t since_line = cleared ? 0 : step % log_every_;
  step_->load(state.tensors, source, step - first_, std::min(since_line, step - first_));
  if (plan_.kept == 0) return;
  const Shape shape{static_cast<std::int64_t>(plan_.kept)};
  const auto shown = tensor_in(state.tensors, source, "shown", DType::kF64, shape);
  shown_.assign(shown.as<double>().begin(), shown.as<double>().end());
}

AdamState TrainingLoop::look() {
  const AdamState adam = step_->adam().state();
  if (adam.halted != 0) throw failure(first_ + adam.steps, adam);
  return adam;
}

void TrainingLoop::add_state(SafetensorsFile& state) const {
  step_->save(state.tensors);
  if (plan_.kept == 0) return;
  std::vector<double> shown = shown_;
  for (double& value : shown) value = std::isfinite(value) ? value : 0;  // of a slope that is none
  state.tensors["shown"] = HostArray::from<double>(shown, Shape{std::ssize(shown)});
}

Error TrainingLoop::failure(std::int64_t step, const AdamState& adam) {
  const std::filesystem::path kept = folder().file("failure.safetensors");
  if (plan_.keeps_failure) {
    SafetensorsFile state;
    state.metadata["step"] = std::to_string(step);
    state.metadata["milliseconds"] = "0";
    add_state(state);
    folder().save_state(kept.filename(), std::move(state));
  }
  const std::string what = step_->not_finite(step);
  const std::string norm =
      fmt::format("gradient norm {}{}; stopped before the update",
                  number_text(std::abs(adam.gradient_norm()), 5),
                  what.empty() ? ", whose square is beyond f32" : "; first " + what);
  return Error(plan_.keeps_failure
                   ? fmt::format("step {}: loss {}, {}, the state is kept in {} (try a lower "
                                 "--learning-rate)",
                                 step, number_text(std::abs(adam.loss), 5), norm, kept.string())
                   : fmt::format("{} step {}: {}", plan_.phase, step, norm));
}

}  // namespace sidechannel::experiments
