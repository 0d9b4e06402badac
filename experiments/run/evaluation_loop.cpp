#include "experiments/run/evaluation_loop.h"

#include <algorithm>
#include <utility>

namespace sidechannel::experiments {

EvaluationLoop::EvaluationLoop(const RunSettings& settings, RunFolder& folder, std::string name,
                               std::string state_file, Plan plan)
    : Phase(settings, folder, std::move(name), std::move(state_file), "batches",
            (plan.samples + plan.batch - 1) / plan.batch),
      plan_(std::move(plan)),
      tape_(plan_.frozen.front()->device()),
      random_(device(), settings.random_seed()),
      finite_(device(), plan_.looked),
      replay_(device()) {}

void EvaluationLoop::add_moments(std::string name, std::int64_t size) {
  names_.push_back(std::move(name));
  moments_.emplace_back(device(), size);
}

void EvaluationLoop::step(std::int64_t step) {
  const std::int64_t first = step * plan_.batch;
  const std::int64_t count = std::min(plan_.batch, plan_.samples - first);
  if (count == plan_.batch) {
    replay_([this] { add(plan_.batch); });
  } else {
    add(count);  // the last batch, a smaller one, is not a repetition
  }
  if (!finite_.finite()) {
    random_.seek(0, static_cast<std::uint32_t>(first));
    throw Error(
        failure(step, first_not_finite(tape_, plan_.frozen, [this, count] { add(count); })));
  }
  keep(first);
}

void EvaluationLoop::add(std::int64_t count) {
  tape_.reset();
  const NoGrad frozen(tape_);
  answer(tape_, random_, count, finite_);
  random_.advance(0, static_cast<std::uint32_t>(count));
}

void EvaluationLoop::save(SafetensorsFile& state) {
  save_kept(state.tensors);
  for (std::size_t i = 0; i < moments_.size(); ++i) moments_[i].save(state.tensors, names_[i]);
}

void EvaluationLoop::load(const SafetensorsFile& state, const std::string& source,
                          std::int64_t step) {
  load_kept(state.tensors, source);
  const std::int64_t count = std::min(step * plan_.batch, plan_.samples);
  for (std::size_t i = 0; i < moments_.size(); ++i) {
    moments_[i].load(state.tensors, source, names_[i], count);
  }
  random_.seek(0, static_cast<std::uint32_t>(count));
}

}  // namespace sidechannel::experiments
