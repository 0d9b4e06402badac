#include "experiments/localization/training.h"

#include <cmath>
#include <limits>

#include "experiments/run/beginning.h"
#include "experiments/run/progress.h"
#include "experiments/run/training_loop.h"

namespace sidechannel::experiments {
namespace {

// The mean over positions of the standard deviation between samples.
double mean_spread(const StreamingMoments& moments) {
  const HostArray variance = moments.variance();
  double sum = 0;
  for (const double v : variance.as<double>()) sum += std::sqrt(v);
  return sum / static_cast<double>(variance.shape.size());
}

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

LocalizationStep::LocalizationStep(Network& network, const LearningRate& rate, std::int64_t batch,
                                   std::int64_t length, std::uint64_t seed,
                                   const InputOptions& input)
    : RegressionStep(
          network.parameters(), target_positions(length), batch,
          [&network, batch,
           source =
               InputSource(network.parameters().device(), input, batch, length, Stream::kNoise)](
              Tape& tape, const Random& random) { return network(source(tape, random, batch)); },
          rate, seed),
      radius_(network.reach().further()) {}

std::vector<double> LocalizationStep::measures() const {
  return {interior_slope(outputs().mean(), radius_), mean_spread(outputs()), loss()};
}

Json LocalizationStep::line(const std::vector<double>& measures, const AdamState& adam) const {
  return {{"loss", measures[2]},
          {"interior_slope", finite_or_null(measures[0])},
          {"output_std", measures[1]},
          {"learning_rate", adam.learning_rate},
          {"gradient_norm", adam.gradient_norm()}};
}

std::string LocalizationStep::words(const std::vector<double>& measures) const {
  const double slope = measures[0];
  return fmt::format("loss {}{}", number_text(measures[2], 5),
                     std::isfinite(slope) ? "  interior slope " + share_text(slope) : "");
}

std::unique_ptr<LocalizationStep> step_of_run(const LocalizationSettings& settings,
                                              Network& network, std::int64_t first) {
  const bool curriculum = first < settings.curriculum_iterations;
  return std::make_unique<LocalizationStep>(
      network, curriculum ? settings.curriculum_rate() : settings.training_rate(), settings.batch,
      curriculum ? settings.curriculum_length : settings.length, settings.random_seed(),
      settings.input_options());
}

std::string training_notice(const LocalizationSettings& settings, double loss, double slope) {
  constexpr double kSomething = 0.05;  // of what there is to gain
  constexpr double kNoSlope = 0.05;
  const std::int64_t radius = settings.radius();
  const bool ring = settings.padding == "circular";  // where no position is another's better
  const bool carries = settings.norm != "none" && (settings.is_unet() || settings.depth > 2) &&
                       settings.localizer().norm_options().positions_per_set == 0;
  const bool has_interior = settings.length - 2 * radius >= 2;  // as a slope needs it
  const bool hears = carries && !ring && settings.input == "noise" && radius > 0 && has_interior;
  const HostArray target = target_positions(settings.length);
  double mean_answer = 0;  // the loss of the mean position everywhere
  double best = 0;
  for (std::int64_t i = 0; i < settings.length; ++i) {
    const double y = target.as<float>()[static_cast<std::size_t>(i)];
    const double square = y * y / static_cast<double>(settings.length);
    mean_answer += square;
    const bool interior = i >= radius && i < settings.length - radius;
    if (ring || (!hears && interior)) best += square;
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

TrainingResult train(const LocalizationSettings& settings, Network& network, RunFolder& folder,
                     const Network* from) {
  // Before the loop takes a state that is there: a run that goes on finds it, or makes it again.
  begin(network, folder, kInitialModelFile, from);
  TrainingLoop loop(
      settings, folder,
      {.phase = "train",
       .state_file = kCheckpointFile,
       .steps = settings.total_iterations(),
       .kept = 3,
       .second_stage = settings.curriculum_iterations,
       .make_step = [&](std::int64_t first) { return step_of_run(settings, network, first); }});
  const double seconds = loop.run();
  save_model(folder.file(kModelFile), network);  // whatever lies there
  return {seconds, training_notice(settings, loop.shown()[2], loop.shown()[0])};
}

}  // namespace sidechannel::experiments
