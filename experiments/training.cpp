#include "experiments/training.h"

#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

namespace sidechannel::experiments {
namespace {

using Json = nlohmann::ordered_json;

// The mean over positions of the standard deviation between samples.
double mean_spread(const StreamingMoments& moments) {
  const HostArray variance = moments.variance();
  double sum = 0;
  for (const double v : variance.as<double>()) sum += std::sqrt(v);
  return sum / static_cast<double>(variance.shape.size());
}

Json number_or_null(double value) {
  return std::isfinite(value) ? Json(value) : Json();
}

// What is logged and shown: averages since the last line of metrics.jsonl.
struct Window {
  explicit Window(const Device& device, std::int64_t length) : outputs(device, length) {}
  double loss_sum = 0;
  std::int64_t steps = 0;
  StreamingMoments outputs;

  void add(double loss, const Tensor& predictions) {
    loss_sum += loss;
    ++steps;
    outputs.add(predictions);
  }
  void clear() {
    loss_sum = 0;
    steps = 0;
    outputs.clear();
  }
  double loss() const { return loss_sum / static_cast<double>(std::max<std::int64_t>(steps, 1)); }
};

// Training at one sequence length: the whole of a run, or one of the two stages of a curriculum.
struct Stage {
  Stage(const Settings& settings, Localizer& network, bool curriculum)
      : length(curriculum ? settings.curriculum_length : settings.length),
        step(network, settings.batch, length),
        adam(network.parameters()),
        window(network.parameters().device(), length) {}
  std::int64_t length;
  TrainingStep step;
  Adam adam;
  Window window;
};

class Training {
 public:
  Training(const Settings& settings, Localizer& network, RunFolder& folder)
      : settings_(settings),
        network_(network),
        folder_(folder),
        schedule_(settings.learning_rate_schedule()) {
    enter_stage(0);
  }

  TrainingResult run() {
    Phase phase(settings_, "train", "checkpoint.safetensors", "it", settings_.total_iterations());
    phase.save = [this](SafetensorsFile& state) { save(state); };
    phase.load = [this](const SafetensorsFile& state) { load(state); };
    phase.step = [this](std::int64_t step) { do_step(step); };
    phase.details = [this] { return details(); };
    TrainingResult result;
    result.seconds = run_phase(folder_, phase);
    result.notice = plateau_notice(settings_, last_slope_, last_spread_);
    return result;
  }

 private:
  bool in_curriculum(std::int64_t step) const { return step < settings_.curriculum_iterations; }

  void enter_stage(std::int64_t step) {
    stage_ = std::make_unique<Stage>(settings_, network_, in_curriculum(step));
  }

  double learning_rate(std::int64_t step) const {
    if (in_curriculum(step)) return settings_.curriculum_learning_rate;
    return settings_.learning_rate *
           schedule_.factor(step - settings_.curriculum_iterations, settings_.iterations);
  }

  void do_step(std::int64_t step) {
    if (step == settings_.curriculum_iterations && step > 0) enter_stage(step);
    const Random random{static_cast<std::uint64_t>(settings_.seed),
                        static_cast<std::uint32_t>(step)};
    const double loss = stage_->step(random);
    const double gradient_norm = stage_->adam.gradient_norm();
    if (!std::isfinite(loss) || !std::isfinite(gradient_norm))
      stop_on_nan(step, loss, gradient_norm);
    const double rate = learning_rate(step);
    stage_->adam.step(rate);

    Window& window = stage_->window;
    window.add(loss, stage_->step.predictions());
    const std::int64_t done = step + 1;
    if (done % settings_.log_every != 0 && done != settings_.total_iterations()) return;
    last_slope_ = slope();
    last_spread_ = mean_spread(window.outputs);
    last_loss_ = window.loss();
    Json line;
    line["phase"] = "train";
    line["step"] = done;
    line["loss"] = last_loss_;
    line["interior_slope"] = number_or_null(last_slope_);
    line["output_std"] = last_spread_;
    line["learning_rate"] = rate;
    line["gradient_norm"] = gradient_norm;
    folder_.log(line);
    window.clear();
  }

  double slope() const {
    return interior_slope(stage_->window.outputs.mean(), network_.config().receptive_field());
  }

  // The state from before the update is kept: loading it repeats the step.
  void stop_on_nan(std::int64_t step, double loss, double gradient_norm) {
    SafetensorsFile state;
    state.metadata["step"] = std::to_string(step);
    state.metadata["milliseconds"] = "0";
    save(state);
    folder_.save_state("failure.safetensors", std::move(state));
    throw Error(
        fmt::format("step {}: loss {}, gradient norm {}; stopped before the update, the "
                    "state is kept in {} (try a lower --learning-rate)",
                    step, loss, gradient_norm, folder_.file("failure.safetensors").string()));
  }

  std::string details() const {
    const bool fresh = stage_->window.steps > 0;
    return fmt::format("loss {:.5f}  interior slope {:.3f}",
                       fresh ? stage_->window.loss() : last_loss_, fresh ? slope() : last_slope_);
  }

  void save(SafetensorsFile& state) const {
    network_.parameters().save(state.tensors);
    stage_->adam.save(state.tensors, "adam");
    stage_->window.outputs.save(state.tensors, "window");
    const std::array<double, 4> sums{stage_->window.loss_sum, last_slope_, last_spread_,
                                     last_loss_};
    state.tensors["window.sums"] = HostArray::from<double>(sums, Shape{4});
    state.tensors["window.steps"] =
        HostArray::from<std::int64_t>(std::span(&stage_->window.steps, 1), Shape{});
  }

  void load(const SafetensorsFile& state) {
    const std::string source = folder_.file("checkpoint.safetensors").string();
    // The state after step n was saved in the stage of step n - 1.
    const std::int64_t step = std::stoll(state.metadata.at("step"));
    enter_stage(step > 0 ? step - 1 : 0);
    network_.parameters().load(state.tensors, source, LoadUnknown::kIgnore);
    stage_->adam.load(state.tensors, source, "adam");
    stage_->window.outputs.load(state.tensors, "window");
    const auto sums = state.tensors.at("window.sums").as<double>();
    stage_->window.loss_sum = sums[0];
    last_slope_ = sums[1];
    last_spread_ = sums[2];
    last_loss_ = sums[3];
    stage_->window.steps = state.tensors.at("window.steps").as<std::int64_t>()[0];
  }

  const Settings& settings_;
  Localizer& network_;
  RunFolder& folder_;
  Schedule schedule_;
  std::unique_ptr<Stage> stage_;
  double last_slope_ = 0;
  double last_spread_ = 0;
  double last_loss_ = 0;
};

}  // namespace

HostArray target_positions(std::int64_t length) {
  HostArray target(DType::kF32, {length});
  auto values = target.as<float>();
  for (std::int64_t i = 0; i < length && length > 1; ++i) {
    values[static_cast<std::size_t>(i)] =
        static_cast<float>(static_cast<double>(i) / static_cast<double>(length - 1) - 0.5);
  }
  return target;
}

double interior_slope(const HostArray& mean, std::int64_t radius) {
  const auto values = mean.as<double>();
  const auto length = static_cast<std::int64_t>(values.size());
  if (length - 2 * radius < 2) return std::numeric_limits<double>::quiet_NaN();
  const auto target = [&](std::int64_t i) {
    return static_cast<double>(i) / static_cast<double>(length - 1) - 0.5;
  };
  // The interior is symmetric around the middle, where the target is 0: its mean is 0 there.
  double products = 0;
  double squares = 0;
  for (std::int64_t i = radius; i < length - radius; ++i) {
    products += values[static_cast<std::size_t>(i)] * target(i);
    squares += target(i) * target(i);
  }
  return products / squares;
}

TrainingStep::TrainingStep(Localizer& network, std::int64_t batch, std::int64_t length)
    : network_(network),
      batch_(batch),
      length_(length),
      target_(Tensor::from(network.parameters().device(), target_positions(length))),
      tape_(network.parameters().device()) {}

double TrainingStep::operator()(const Random& random) {
  tape_.reset();
  const Var x = tape_.normal({batch_, length_, 1}, Stream::kNoise, random);
  const Var y = network_(x);
  const Var loss = mse(y, target_);
  tape_.backward(loss);
  predictions_ = y.value();
  return loss.value().item();
}

std::string plateau_notice(const Settings& settings, double slope, double spread) {
  constexpr double kNoSlope = 0.01;
  constexpr double kNoSpread = 0.01;
  if (settings.norm == "none" || !(std::abs(slope) < kNoSlope && spread < kNoSpread)) return {};
  return fmt::format(
      "this run sits on the plateau: interior slope {:.3f}, predictions differ by {:.4f} between "
      "samples.\nThe network answers the mean position everywhere and will not leave this by "
      "training longer.\nTry another seed (--seed {}) or a lower rate (--learning-rate {}).",
      slope, spread, settings.seed + 1, settings.learning_rate / 2);
}

TrainingResult train(const Settings& settings, Localizer& network, RunFolder& folder) {
  TrainingResult result = Training(settings, network, folder).run();
  if (!folder.has("model.safetensors")) save_model(folder.file("model.safetensors"), network);
  return result;
}

}  // namespace sidechannel::experiments
