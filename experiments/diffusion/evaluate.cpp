#include "experiments/diffusion/evaluate.h"

#include <algorithm>
#include <random>

#include "engine/io/npy.h"
#include "experiments/leak/measure.h"

namespace sidechannel::experiments {
namespace {

constexpr Stream kLeakNoise{6};

// The first `count` pairs, each `plans` times: [n, 4], and the pairs [n, 2].
struct Task {
  std::vector<float> ends;
  std::vector<std::int64_t> pairs;

  void add(const Corridors& corridors, const std::vector<JunctionPair>& all, std::int64_t count,
           std::int64_t plans) {
    count = std::min(count, std::ssize(all));
    for (std::int64_t i = 0; i < count * plans; ++i) {
      const auto [start, goal] = all[static_cast<std::size_t>(i / plans)];
      float x[4];
      corridors.place_of(start, &x[0], &x[1]);
      corridors.place_of(goal, &x[2], &x[3]);
      ends.insert(ends.end(), std::begin(x), std::end(x));
      pairs.insert(pairs.end(), {start, goal});
    }
  }
};

// What becomes of the plans [first, last), of which each pair has so many.
Json judged(const Corridors& corridors, const HostArray& plans, std::int64_t first,
            std::int64_t last, std::int64_t of_pair) {
  const std::int64_t size = plans.shape[1] * 2;
  const double corridor = 2.0 / static_cast<double>(corridors.config().side - 1);
  double inside = 0, valid = 0, distance = 0, solved = 0;
  for (std::int64_t begin = first; begin < last; begin += of_pair) {
    bool any = false;
    for (std::int64_t i = begin; i < begin + of_pair; ++i) {
      const float* plan = &plans.as<float>()[static_cast<std::size_t>(i * size)];
      const Corridors::Verdict verdict = corridors.judge(plan);
      inside += verdict.inside;
      valid += verdict.valid();
      any = any || verdict.valid();
      distance += corridors.distance_to_training(plan) / corridor;
    }
    solved += any;
  }
  const auto count = static_cast<double>(last - first);
  if (count == 0) return {};
  return {{"pairs", (last - first) / of_pair},
          {"plans", last - first},
          {"inside", inside / count},
          {"valid", valid / count},
          {"solved", solved * static_cast<double>(of_pair) / count},
          {"distance", distance / count}};
}

}  // namespace

Json evaluate_plans(const DiffusionSettings& settings, const Corridors& corridors,
                    const TemporalUnet& network, const RunFolder& folder) {
  Task task;
  task.add(corridors, corridors.held_out(), settings.pairs, settings.plans);
  const std::int64_t held_out = std::ssize(task.ends) / 4;
  task.add(corridors, corridors.trained(), settings.pairs, settings.plans);
  const std::int64_t count = std::ssize(task.ends) / 4;
  write_npy(folder.file("pairs.npy"), HostArray::from<std::int64_t>(task.pairs, {count, 2}));
  const NoiseSchedule schedule(settings.steps);
  const HostArray ends = HostArray::from<float>(task.ends, {count, 4});
  const auto planned = [&](const char* name, Statistics statistics) -> Json {
    const HostArray plans = sample_plans(network, schedule, ends, settings.horizon(), statistics,
                                         settings.random_seed());
    write_npy(folder.file(name), plans);
    return {{"held_out", judged(corridors, plans, 0, held_out, settings.plans)},
            {"trained", judged(corridors, plans, held_out, count, settings.plans)}};
  };
  Json result = planned("plans.npy", Statistics::kMinibatch);
  if (network.config().has_population_statistics()) {
    result["population"] = planned("plans-population.npy", Statistics::kPopulation);
  }
  return result;
}

Json leak_of(const DiffusionSettings& settings, const Corridors& corridors, TemporalUnet& network) {
  const Device& device = network.parameters().device();
  const NoiseSchedule schedule(settings.steps);
  const NoiseTables tables(device, schedule);
  const Tensor walks = Tensor::from(device, corridors.walks());
  const std::int64_t length = corridors.walks().shape[1];
  std::vector<std::int64_t> steps;
  for (const double share : {0.0, 0.25, 0.5, 0.75, 1.0}) {
    const auto step =
        static_cast<std::int64_t>(share * static_cast<double>(settings.steps - 1) + 0.5);
    if (steps.empty() || steps.back() != step) steps.push_back(step);
  }
  Json all = Json::array();
  for (const std::int64_t horizon :
       {settings.horizon() / 2, settings.horizon(), 2 * settings.horizon()}) {
    if (horizon % network.stride() != 0 || horizon > length) continue;
    const Tensor held = Tensor::from(device, held_positions(horizon));
    for (const std::int64_t step : steps) {
      network.set_step(step);
      Random random(device, settings.random_seed());
      std::vector<Tensor> inputs;
      for (std::int64_t i = 0; i < settings.leak_inputs; ++i) {
        Tape tape(device);
        const std::int64_t windows = walks.shape()[0] * (length - horizon + 1);
        const Var at = tape.uniform_integers(1, windows, kLeakNoise, random);
        random.advance(1);
        const Var e = reshape(tape.normal({1, horizon * 2}, kLeakNoise, random), {1, horizon, 2});
        random.advance(1);
        const Var t = tape.make({1});
        t.value().fill(static_cast<double>(step));
        const Var x = tables.noised(gather_windows(walks, at, horizon), e, t, held);
        const Tensor kept(device, DType::kF32, x.shape());
        kept.copy_from(x.value());
        inputs.push_back(kept);
      }
      LeakOptions options;
      options.asked = evenly_spaced(horizon, settings.leak_outputs);
      options.layers = false;
      const Json report = measure_leak(network, inputs, options);
      Json line = {{"noise_step", step}, {"horizon", horizon}};
      for (const char* part : {"live", "frozen", "mean", "variance", "difference"}) {
        line[part] = report[part];
      }
      line["inside"] = report["receptive_field"]["inside"];
      all.push_back(line);
    }
  }
  return all;
}

}  // namespace sidechannel::experiments
