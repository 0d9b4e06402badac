#include "experiments/diffusion/planning.h"

#include <algorithm>

#include "experiments/run/progress.h"

namespace sidechannel::experiments {
namespace {

constexpr Stream kWindowDraw{7};
constexpr Stream kStepDraw{8};
constexpr Stream kPlanNoise{9};

Tensor f32_table(const Device& device, const std::vector<double>& values) {
  std::vector<float> rounded(values.begin(), values.end());
  return Tensor::from(device, HostArray::from<float>(rounded, {std::ssize(rounded)}));
}

// Window numbers of more than 24 bits would not fit into f32.
Tensor index_table(const Device& device, const std::vector<std::int64_t>& windows) {
  require(windows.empty() || windows.back() < (std::int64_t{1} << 24),
          fmt::format("--walks, --walk-corridors: {} windows, expected at most 2^24",
                      windows.empty() ? 0 : windows.back() + 1));
  std::vector<float> index(windows.begin(), windows.end());
  return Tensor::from(device, HostArray::from<float>(index, {std::ssize(index)}));
}

// 1 where `held` is 0, and 0 elsewhere; scaled so that the mean over what is noised is asked for.
HostArray loss_weights(const HostArray& held) {
  HostArray weights = held;
  const auto values = weights.as<float>();
  const auto free = static_cast<float>(std::ranges::count(values, 0.0F));
  const float scale = free > 0 ? static_cast<float>(values.size()) / free : 0.0F;
  for (float& value : values) value = value == 0 ? scale : 0.0F;
  return weights;
}

// Noise [N, L, C] where `random` stands.
Var noise(Tape& tape, std::int64_t samples, std::int64_t length, std::int64_t channels,
          Stream stream, const Random& random) {
  return reshape(tape.normal({samples, length * channels}, stream, random),
                 {samples, length, channels});
}

}  // namespace

HostArray held_positions(std::int64_t horizon) {
  HostArray held(DType::kF32, {horizon, 2});
  const auto values = held.as<float>();
  for (std::size_t i : {std::size_t{0}, std::size_t{1}, values.size() - 2, values.size() - 1}) {
    values[i] = 1;
  }
  return held;
}

NoiseTables::NoiseTables(const Device& device, const NoiseSchedule& schedule)
    : signal_(f32_table(device, schedule.signal)), noise_(f32_table(device, schedule.noise)) {}

Var NoiseTables::noised(const Var& start, const Var& noise, const Var& steps,
                        const Tensor& held) const {
  const WeightedTerm terms[] = {{gather(signal_, steps), start}, {gather(noise_, steps), noise}};
  return weighted_sum(terms, {held, start});
}

DiffusionStep::DiffusionStep(const DiffusionSettings& settings, TemporalUnet& network,
                             const Corridors& corridors)
    : TrainingStep(network.parameters(), settings.training_rate(), settings.random_seed()),
      settings_(settings),
      network_(network),
      tables_(network.parameters().device(), NoiseSchedule(settings.steps)),
      walks_(Tensor::from(network.parameters().device(), corridors.walks())),
      windows_(index_table(network.parameters().device(), corridors.windows())),
      held_(Tensor::from(network.parameters().device(), held_positions(settings.horizon()))),
      weights_(Tensor::from(network.parameters().device(),
                            loss_weights(held_positions(settings.horizon())))),
      ema_(network.parameters(), settings.ema_decay),
      losses_(network.parameters().device(), 1) {
  set_averages({{"window.loss", &losses_, 1}});
}

void DiffusionStep::compute(Tape& tape, const Random& random, Adam& adam) {
  const std::int64_t batch = settings_.batch, horizon = settings_.horizon();
  const Var drawn = tape.uniform_integers(batch, windows_.size(), kWindowDraw, random);
  const Var start = gather_windows(walks_, gather(windows_, drawn), horizon);
  const Var steps = tape.uniform_integers(batch, settings_.steps, kStepDraw, random);
  const Var e = noise(tape, batch, horizon, 2, Stream::kNoise, random);
  const Var y = network_(tables_.noised(start, e, steps, held_), steps, Statistics::kTraining);
  const Var loss = mse(y, start.value(), weights_);
  tape.backward(loss);
  adam.step(loss.value());
  losses_.add(loss.value().reshape({1, 1}), adam.halted_flag());
}

void DiffusionStep::average(std::int64_t done) {
  if (done % settings_.ema_every != 0) return;
  if (done <= settings_.ema_from) {
    ema_.reset();
  } else {
    ema_.update(adam().halted_flag());
  }
}

std::vector<double> DiffusionStep::measures() const {
  return {losses_.mean().as<double>()[0]};
}

Json DiffusionStep::line(const std::vector<double>& measures, const AdamState& adam) const {
  return {{"loss", measures.front()},
          {"learning_rate", adam.learning_rate},
          {"gradient_norm", adam.gradient_norm()}};
}

std::string DiffusionStep::words(const std::vector<double>& measures) const {
  return "loss " + number_text(measures.front(), 4);
}

HostArray sample_plans(const TemporalUnet& network, const NoiseSchedule& schedule,
                       const HostArray& ends, std::int64_t horizon, Statistics statistics,
                       std::uint64_t seed) {
  const Device& device = network.parameters().device();
  const std::int64_t count = ends.shape[0];
  HostArray fixed(DType::kF32, {count, horizon, 2});
  for (std::int64_t i = 0; i < count; ++i) {
    for (std::int64_t c = 0; c < 2; ++c) {
      const auto put = [&](std::int64_t position, std::int64_t from) {
        fixed.as<float>()[static_cast<std::size_t>((i * horizon + position) * 2 + c)] =
            ends.as<float>()[static_cast<std::size_t>(i * 4 + from)];
      };
      put(0, c);
      put(horizon - 1, 2 + c);
    }
  }
  const Tensor given = Tensor::from(device, fixed);
  const Tensor held = Tensor::from(device, held_positions(horizon));
  const Tensor plans(device, DType::kF32, {count, horizon, 2});
  Random random(device, seed);
  Tape tape(device);
  const NoGrad no_grad(tape);
  const auto filled = [&](double value) {
    Var all = tape.make({count});
    all.value().fill(value);
    return all;
  };
  for (std::int64_t t = schedule.steps(); t >= 0; --t) {
    tape.reset();
    random.seek(static_cast<std::uint32_t>(t));
    const Var e = noise(tape, count, horizon, 2, kPlanNoise, random);
    const Held ends_held{held, tape.constant(given)};
    if (t == schedule.steps()) {  // x_T
      const WeightedTerm all_noise[] = {{filled(1), e}};
      plans.copy_from(weighted_sum(all_noise, ends_held).value());
      continue;
    }
    const auto at = static_cast<std::size_t>(t);
    const Var x = tape.constant(plans);
    const Var start = network(x, filled(static_cast<double>(t)), statistics);
    const WeightedTerm step[] = {{filled(schedule.of_start[at]), start},
                                 {filled(schedule.of_sample[at]), x},
                                 {filled(schedule.deviation[at]), e}};
    plans.copy_from(weighted_sum(step, ends_held).value());
  }
  return plans.to_host();
}

}  // namespace sidechannel::experiments
