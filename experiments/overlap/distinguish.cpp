#include "experiments/overlap/distinguish.h"

#include <algorithm>
#include <cmath>

#include "engine/finite.h"
#include "engine/io/safetensors.h"
#include "engine/say.h"

namespace sidechannel::experiments {
namespace {

constexpr const char* kCheckpoint = "checkpoint.safetensors";
constexpr const char* kTestCheckpoint = "test_checkpoint.safetensors";
constexpr std::array<float, 2> kAnswers = {-1, 1};

std::uint64_t seed_of(const OverlapSettings& settings) {
  return static_cast<std::uint64_t>(settings.seed);
}

class Training {
 public:
  Training(const OverlapSettings& settings, std::int64_t overlap, Localizer& network,
           RunFolder& folder)
      : settings_(settings),
        name_(fmt::format("overlap {}", overlap)),
        folder_(folder),
        step_(network, settings.training_rate(), settings.batch, overlap, seed_of(settings)) {}

  double run() {
    Phase phase(settings_, name_, kCheckpoint, "it", settings_.iterations);
    phase.save = [this](SafetensorsFile& state) {
      look();
      add_state(state);
    };
    phase.load = [this](const SafetensorsFile& state, const std::string& source,
                        std::int64_t step) {
      step_.load(state.tensors, source, step,
                 steps_since_line(step, settings_.iterations, settings_.log_every));
      step_.seek(step);
      loss_ = tensor_in(state.tensors, source, "shown", DType::kF64, Shape{1}).as<double>()[0];
    };
    phase.step = [this](std::int64_t step) { do_step(step); };
    phase.details = [this] {
      look();
      return "loss " +
             number_text(step_.window().losses.count() > 0 ? step_.window().loss() : loss_, 4);
    };
    return run_phase(folder_, phase);
  }

 private:
  void do_step(std::int64_t step) {
    step_();
    const std::int64_t done = step + 1;
    if (done % settings_.log_every != 0 && done != settings_.iterations) return;
    const AdamState adam = look();
    loss_ = step_.window().loss();
    Json line;
    line["phase"] = "train";
    line["step"] = done;
    line["loss"] = loss_;
    line["learning_rate"] = adam.learning_rate;
    line["gradient_norm"] = adam.gradient_norm();
    folder_.log(line);
    step_.window().clear();
  }

  AdamState look() {
    return experiments::look(step_, 0, folder_,
                             [this](SafetensorsFile& state) { add_state(state); });
  }

  void add_state(SafetensorsFile& state) const {
    step_.save(state.tensors);
    state.tensors["shown"] = HostArray::from<double>(std::span(&loss_, 1), Shape{1});
  }

  const OverlapSettings& settings_;
  std::string name_;
  RunFolder& folder_;
  DistinguishStep step_;
  double loss_ = 0;  // the average in the last line of metrics.jsonl
};

class Test {
 public:
  Test(const OverlapSettings& settings, std::int64_t overlap, const Localizer& network,
       RunFolder& folder)
      : settings_(settings),
        name_(fmt::format("overlap {}, test", overlap)),
        network_(network),
        folder_(folder),
        tape_(network.parameters().device()),
        random_(tape_.device(), seed_of(settings)),
        pairs_(settings.length(), overlap, kEvaluationNoise),
        answers_(tape_.device(), 2),
        finite_(tape_.device(), 1),
        replay_(tape_.device()) {}

  double run() {
    Phase phase(settings_, name_, kTestCheckpoint, "batches",
                (settings_.test_pairs + settings_.batch - 1) / settings_.batch);
    phase.save = [this](SafetensorsFile& state) { answers_.save(state.tensors, "answers"); };
    phase.load = [this](const SafetensorsFile& state, const std::string& source,
                        std::int64_t step) {
      const std::int64_t count = std::min(step * settings_.batch, settings_.test_pairs);
      answers_.load(state.tensors, source, "answers", count);
      random_.seek(0, static_cast<std::uint32_t>(count));
    };
    phase.step = [this](std::int64_t step) {
      const std::int64_t count = count_of(step);
      if (count == settings_.batch) {
        replay_([this] { add(settings_.batch); });
      } else {
        add(count);  // the last batch, a smaller one, is not a repetition
      }
      look(step);
    };
    phase.details = [this] { return "mean squared error " + number_text(mse(), 4); };
    return run_phase(folder_, phase);
  }

  // E (f - y)^2 = (E f - y)^2 + E (f - E f)^2, averaged over the two answers.
  double mse() const {
    const HostArray mean = answers_.mean();
    const HostArray variance = answers_.variance();
    const auto count = static_cast<double>(answers_.count());
    double sum = 0;
    for (std::size_t i = 0; i < 2; ++i) {
      const double bias = mean.as<double>()[i] - static_cast<double>(kAnswers[i]);
      sum += bias * bias + variance.as<double>()[i] * (count - 1) / count;
    }
    return sum / 2;
  }
  const StreamingMoments& answers() const { return answers_; }

 private:
  // Pairs in a batch.
  std::int64_t count_of(std::int64_t step) const {
    return std::min(settings_.batch, settings_.test_pairs - step * settings_.batch);
  }

  // Error, where an answer is not finite: nothing of it is to be counted.
  void look(std::int64_t step) {
    if (finite_.finite()) return;
    random_.seek(0, static_cast<std::uint32_t>(step * settings_.batch));
    throw Error(fmt::format(
        "test, batch {}: {}", step,
        first_not_finite(tape_, {&network_.parameters()}, [&] { add(count_of(step)); })));
  }

  void add(std::int64_t count) {
    tape_.reset();
    const NoGrad frozen(tape_);
    const Tensor y = network_(pairs_(tape_, random_, count)).value();
    answers_.add(y.reshape({count, 2}));
    finite_.look(0, y);
    random_.advance(0, static_cast<std::uint32_t>(count));
  }

  const OverlapSettings& settings_;
  std::string name_;
  const Localizer& network_;
  RunFolder& folder_;
  Tape tape_;
  Random random_;
  PairSource pairs_;
  StreamingMoments answers_;
  FiniteCheck finite_;  // the answers of the last batch
  Replay replay_;
};

// Words about a network that has learned nothing: its error is that of answering 0, where enough is
// shared to tell the two apart (Section 3.2: near 0 from 3 l / 4 on), or is larger, which it need
// never be. Empty otherwise.
std::string test_notice(const OverlapSettings& settings, std::int64_t overlap, double mse) {
  constexpr double kNothing = 0.95;
  constexpr double kLarger = 1.1;
  const std::int64_t length = settings.length();
  const bool has_norm = settings.depth > 2;
  const bool can_learn = has_norm && 4 * overlap >= 3 * length && overlap < length;
  if (!(mse > kLarger) && !(can_learn && mse >= kNothing)) return {};
  return fmt::format(
      "overlap {}: this network learned nothing: mean squared error {}, where answering 0 has "
      "1; try another seed (--seed {}) or a lower rate (--learning-rate {})",
      overlap, number_text(mse, 3), settings.seed + 1, settings.learning_rate / 2);
}

Json numbers(const HostArray& array) {
  const auto values = array.as<double>();
  return Json(std::vector<double>(values.begin(), values.end()));
}

}  // namespace

Var PairSource::operator()(Tape& tape, const Random& random, std::int64_t pairs) const {
  const Var noise = tape.normal({pairs, 2 * length_ - overlap_}, stream_, random);
  return reshape(windows(noise, 2, length_, length_ - overlap_), {2 * pairs, length_, 1});
}

DistinguishStep::DistinguishStep(Localizer& network, const LearningRate& rate, std::int64_t pairs,
                                 std::int64_t overlap, std::uint64_t seed)
    : TrainingStep(
          network.parameters(), HostArray::from<float>(kAnswers, {2}), pairs,
          [&network, pairs,
           source = PairSource(network.config().length(), overlap, Stream::kNoise)](
              Tape& tape, const Random& random) { return network(source(tape, random, pairs)); },
          rate, seed) {}

Json distinguish(const OverlapSettings& settings, std::int64_t overlap, RunFolder& folder,
                 const Device& device) {
  Localizer network(device, DType::kF32, settings.network(), seed_of(settings));
  double seconds = Training(settings, overlap, network, folder).run();
  save_model(folder.file(kModelFile), network);  // whatever lies there
  Test test(settings, overlap, network, folder);
  seconds += test.run();
  Json result;
  result["overlap"] = overlap;
  result["length"] = settings.length();
  result["mse"] = test.mse();
  result["mean"] = numbers(test.answers().mean());
  result["variance"] = numbers(test.answers().variance());
  result["pairs"] = test.answers().count();
  result["seed"] = settings.seed;
  const std::string notice = test_notice(settings, overlap, test.mse());
  if (!notice.empty()) note("{}\n", notice);
  result["notice"] = notice.empty() ? Json() : Json(notice);
  result["seconds"] = std::round(seconds * 1000) / 1000;
  folder.write_json("result.json", result);
  return result;
}

}  // namespace sidechannel::experiments
