#include "experiments/overlap/distinguish.h"

#include <cmath>

#include "engine/io/safetensors.h"
#include "engine/say.h"
#include "experiments/run/beginning.h"
#include "experiments/run/evaluation_loop.h"
#include "experiments/run/progress.h"
#include "experiments/run/training_loop.h"

namespace sidechannel::experiments {
namespace {

constexpr std::array<float, 2> kAnswers = {-1, 1};

class Test : public EvaluationLoop {
 public:
  Test(const OverlapSettings& settings, std::int64_t overlap, const Localizer& network,
       RunFolder& folder)
      : EvaluationLoop(settings, folder, "test", "test_checkpoint.safetensors",
                       {.samples = settings.test_pairs,
                        .batch = settings.batch,
                        .looked = 1,
                        .frozen = {&network.parameters()}}),
        network_(network),
        pairs_(settings.length(), overlap, kEvaluationNoise) {
    add_moments("answers", 2);
  }

  const StreamingMoments& answers() const { return moments(0); }

  // E (f - y)^2 = (E f - y)^2 + E (f - E f)^2, averaged over the two answers.
  double mse() const {
    const HostArray mean = answers().mean();
    const HostArray variance = answers().variance();
    const auto count = static_cast<double>(answers().count());
    double sum = 0;
    for (std::size_t i = 0; i < 2; ++i) {
      const double bias = mean.as<double>()[i] - static_cast<double>(kAnswers[i]);
      sum += bias * bias + variance.as<double>()[i] * (count - 1) / count;
    }
    return sum / 2;
  }

 private:
  void answer(Tape& tape, const Random& random, std::int64_t count, FiniteCheck& finite) override {
    const Tensor y = network_(pairs_(tape, random, count)).value();
    moments(0).add(y.reshape({count, 2}));
    finite.look(0, y);
  }
  std::string details() override { return "mean squared error " + number_text(mse(), 4); }
  std::string failure(std::int64_t batch, const std::string& what) const override {
    return fmt::format("test, batch {}: {}", batch, what);
  }

  const Localizer& network_;
  PairSource pairs_;
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
    : RegressionStep(
          network.parameters(), HostArray::from<float>(kAnswers, {2}), pairs,
          [&network, pairs,
           source = PairSource(network.config().length(), overlap, Stream::kNoise)](
              Tape& tape, const Random& random) { return network(source(tape, random, pairs)); },
          rate, seed) {}

std::vector<Growth> growth_of(const OverlapSettings& settings) {
  return {{.setting = "iterations",
           .state = kCheckpointFile,
           .rate = settings.training_rate(),
           .by = "schedule",
           .results = {"result.json", kModelFile}}};
}

Json distinguish(const OverlapSettings& settings, std::int64_t overlap, RunFolder& folder,
                 const Device& device) {
  Localizer network(device, DType::kF32, settings.network(), settings.random_seed());
  if (begins_with_a_file(folder)) {
    const std::filesystem::path path = folder.path().parent_path() / kInitialModelFile;
    network.parameters().load(read_safetensors(path).tensors, path.string());
  }
  TrainingLoop training(settings, folder,
                        {.phase = "train",
                         .state_file = kCheckpointFile,
                         .steps = settings.iterations,
                         .kept = 1,
                         .make_step = [&](std::int64_t /*first*/) {
                           return std::make_unique<DistinguishStep>(
                               network, settings.training_rate(), settings.batch, overlap,
                               settings.random_seed());
                         }});
  double seconds = training.run();
  save_model(folder.file(kModelFile), network);  // whatever lies there
  Test test(settings, overlap, network, folder);
  seconds += test.run();
  const std::string notice = test_notice(settings, overlap, test.mse());
  if (!notice.empty()) note("{}\n", notice);
  Json result{{"overlap", overlap},
              {"length", settings.length()},
              {"mse", test.mse()},
              {"mean", numbers(test.answers().mean())},
              {"variance", numbers(test.answers().variance())},
              {"pairs", test.answers().count()},
              {"seed", settings.seed},
              {"notice", notice.empty() ? Json() : Json(notice)},
              {"seconds", std::round(seconds * 1000) / 1000}};
  folder.write_json("result.json", result);
  return result;
}

}  // namespace sidechannel::experiments
