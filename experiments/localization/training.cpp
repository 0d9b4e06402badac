#include "experiments/localization/training.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>

namespace sidechannel::experiments {
namespace {

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

class Training {
 public:
  Training(const LocalizationSettings& settings, Localizer& network, RunFolder& folder)
      : settings_(settings), network_(network), folder_(folder) {
    enter_stage(0);
  }

  TrainingResult run() {
    Phase phase(settings_, "train", "checkpoint.safetensors", "it", settings_.total_iterations());
    phase.save = [this](SafetensorsFile& state) { save(state); };
    phase.load = [this](const auto&... state) { load(state...); };
    phase.step = [this](std::int64_t step) { do_step(step); };
    phase.details = [this] { return details(); };
    TrainingResult result;
    result.seconds = run_phase(folder_, phase);
    result.notice = training_notice(settings_, last_loss_, last_slope_);
    return result;
  }

 private:
  // Training at one sequence length: the whole of a run, or one of the two stages of a curriculum.
  // `step` is one of the stage's.
  void enter_stage(std::int64_t step) {
    const bool curriculum = step < settings_.curriculum_iterations;
    first_ = curriculum ? 0 : settings_.curriculum_iterations;
    step_ = std::make_unique<LocalizationStep>(
        network_, curriculum ? settings_.curriculum_rate() : settings_.training_rate(),
        settings_.batch, curriculum ? settings_.curriculum_length : settings_.length,
        static_cast<std::uint64_t>(settings_.seed), input_from(settings_.input));
    step_->seek(first_);
  }

  void do_step(std::int64_t step) {
    if (step == settings_.curriculum_iterations && step > 0) {
      look();
      enter_stage(step);
    }
    (*step_)();
    const std::int64_t done = step + 1;
    if (done % settings_.log_every != 0 && done != settings_.total_iterations()) return;
    const AdamState adam = look();
    Window& window = step_->window();
    last_slope_ = slope();
    last_spread_ = mean_spread(window.outputs);
    last_loss_ = window.loss();
    Json line;
    line["phase"] = "train";
    line["step"] = done;
    line["loss"] = last_loss_;
    line["interior_slope"] = number_or_null(last_slope_);
    line["output_std"] = last_spread_;
    line["learning_rate"] = adam.learning_rate;
    line["gradient_norm"] = adam.gradient_norm();
    folder_.log(line);
    window.clear();
  }

  double slope() const {
    return interior_slope(step_->window().outputs.mean(), network_.config().receptive_field());
  }

  AdamState look() {
    return experiments::look(*step_, first_, folder_,
                             [this](SafetensorsFile& state) { add_state(state); });
  }

  std::string details() {
    look();
    const bool fresh = step_->window().losses.count() > 0;
    const double interior = fresh ? slope() : last_slope_;
    return fmt::format("loss {}{}", number_text(fresh ? step_->window().loss() : last_loss_, 5),
                       std::isfinite(interior) ? "  interior slope " + share_text(interior) : "");
  }

  void save(SafetensorsFile& state) {
    look();
    add_state(state);
  }

  void add_state(SafetensorsFile& state) const {
    step_->save(state.tensors);
    const std::array<double, 3> shown{std::isfinite(last_slope_) ? last_slope_ : 0, last_spread_,
                                      last_loss_};
    state.tensors["shown"] = HostArray::from<double>(shown, Shape{3});
  }

  void load(const SafetensorsFile& state, const std::string& source, std::int64_t step) {
    // The state after step n was saved in the stage of step n - 1.
    enter_stage(step > 0 ? step - 1 : 0);
    step_->seek(step);
    const std::int64_t since =
        steps_since_line(step, settings_.total_iterations(), settings_.log_every);
    step_->load(state.tensors, source, step - first_, std::min(since, step - first_));
    const auto shown =
        tensor_in(state.tensors, source, "shown", DType::kF64, Shape{3}).as<double>();
    last_slope_ = shown[0];
    last_spread_ = shown[1];
    last_loss_ = shown[2];
  }

  const LocalizationSettings& settings_;
  Localizer& network_;
  RunFolder& folder_;
  std::int64_t first_ = 0;  // step of the stage
  std::unique_ptr<LocalizationStep> step_;
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

LocalizationStep::LocalizationStep(Localizer& network, const LearningRate& rate, std::int64_t batch,
                                   std::int64_t length, std::uint64_t seed, Input input)
    : TrainingStep(
          network.parameters(), target_positions(length), batch,
          [&network, batch,
           source =
               InputSource(network.parameters().device(), input, batch, length, Stream::kNoise)](
              Tape& tape, const Random& random) { return network(source(tape, random, batch)); },
          rate, seed) {}

std::string training_notice(const LocalizationSettings& settings, double loss, double slope) {
  constexpr double kSomething = 0.05;  // of what there is to gain
  constexpr double kNoSlope = 0.05;
  const std::int64_t radius = settings.network().receptive_field();
  const bool has_norm = settings.norm != "none" && settings.depth > 2;
  const bool hears = has_norm && input_from(settings.input) == Input::kNoise && radius > 0;
  const HostArray target = target_positions(settings.length);
  double mean_answer = 0;  // the loss of the mean position everywhere
  double best = 0;
  for (std::int64_t i = 0; i < settings.length; ++i) {
    const double y = target.as<float>()[static_cast<std::size_t>(i)];
    const double square = y * y / static_cast<double>(settings.length);
    mean_answer += square;
    if (!hears && i >= radius && i < settings.length - radius) best += square;
  }
  if (!(mean_answer > best)) return {};
  const bool learned = mean_answer - loss >= kSomething * (mean_answer - best);
  if (learned && !(hears && slope < kNoSlope)) return {};
  const std::string what =
      learned ? fmt::format("nothing of what lies beyond its receptive field: interior slope {}",
                            share_text(slope))
              : fmt::format("nothing: loss {}, where answering the mean position everywhere has {}",
                            number_text(loss, 5), number_text(mean_answer, 5));
  return fmt::format(
      "this run learned {}; try another seed (--seed {}) or a lower rate "
      "(--learning-rate {})",
      what, settings.seed == INT64_MAX ? 0 : settings.seed + 1, settings.learning_rate / 2);
}

TrainingResult train(const LocalizationSettings& settings, Localizer& network, RunFolder& folder) {
  TrainingResult result = Training(settings, network, folder).run();
  save_model(folder.file(kModelFile), network);  // whatever lies there
  return result;
}

}  // namespace sidechannel::experiments
