#include "experiments/localization_settings.h"

#include "experiments/input.h"

namespace sidechannel::experiments {

void LocalizationSettings::check() const {
  require_at_least("length", length, 1);
  require_at_least("batch", batch, 1);
  require_at_least("iterations", iterations, 1);
  require_at_least("warmup", warmup, 0);
  require_at_least("probe width", probe_width, 1);
  require_at_least("probe batch", probe_batch, 1);
  require_at_least("probe iterations", probe_iterations, 1);
  require_at_least("map samples", map_samples, 2);
  require_at_least("curriculum iterations", curriculum_iterations, 0);
  if (curriculum_iterations > 0) require_at_least("curriculum length", curriculum_length, 1);
  require(total_iterations() < (std::int64_t{1} << 32), "iterations: expected fewer than 2^32");
  require(learning_rate > 0 && probe_learning_rate > 0, "learning rate: expected more than 0");
  require(curriculum_iterations == 0 || curriculum_learning_rate > 0,
          "curriculum learning rate: expected more than 0");
  require(p_threshold > 0 && p_threshold < 1, "p threshold: expected a number between 0 and 1");
  RunSettings::check();
  network().check();
  input_from(input);
  training_rate();
  probe_rate();
  evaluation_statistics();
  probed_layers();
  if (norm == "batch") {
    for (const auto& [name, value] :
         {std::pair{"batch", batch}, {"probe batch", probe_batch}, {"map samples", map_samples}}) {
      require(value % samples_per_set == 0,
              fmt::format("{} {}: expected a multiple of {} samples per set", name, value,
                          samples_per_set));
    }
  }
}

LocalizerConfig LocalizationSettings::network() const {
  LocalizerConfig config;
  config.depth = depth;
  config.channels = channels;
  config.kernel_size = kernel_size;
  config.norm = norm_kind_from(norm);
  config.groups = groups;
  config.samples_per_set = samples_per_set;
  return config;
}

kernels::LearningRate LocalizationSettings::curriculum_rate() const {
  kernels::LearningRate rate;
  rate.base = curriculum_learning_rate;
  return rate;
}

kernels::LearningRate LocalizationSettings::training_rate() const {
  return learning_rate_from(learning_rate, schedule, warmup, iterations);
}

kernels::LearningRate LocalizationSettings::probe_rate() const {
  return learning_rate_from(probe_learning_rate, probe_schedule, 0, probe_iterations);
}

Statistics LocalizationSettings::evaluation_statistics() const {
  if (eval_statistics == "minibatch") return Statistics::kMinibatch;
  require(eval_statistics == "population",
          fmt::format("eval statistics {}: expected minibatch or population", eval_statistics));
  require(network().has_population_statistics(),
          fmt::format("eval statistics population: {} norm has no running statistics", norm));
  return Statistics::kPopulation;
}

std::vector<std::int64_t> LocalizationSettings::probed_layers() const {
  if (probes == "none") return {};
  if (probes == "last") return {depth - 1};
  require(probes == "all", fmt::format("probes {}: expected all, last or none", probes));
  std::vector<std::int64_t> layers;
  for (std::int64_t layer = 1; layer < depth; ++layer) layers.push_back(layer);
  return layers;
}

}  // namespace sidechannel::experiments
