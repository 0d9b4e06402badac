#include "experiments/localization/settings.h"

#include <tuple>

namespace sidechannel::experiments {

void LocalizationSettings::check() const {
  check_domains(all_settings<LocalizationSettings>(), *this);
  require(total_iterations() <= kMostSteps,
          fmt::format("--iterations {}: with --curriculum-iterations {} more than {} in all",
                      iterations, curriculum_iterations, kMostSteps));
  if (has_curriculum()) {
    require(curriculum_length > 0, "--curriculum-length 0: expected at least 1 for a curriculum");
    require(curriculum_learning_rate > 0,
            "--curriculum-learning-rate 0: expected more than 0 for a curriculum");
  }
  for (const auto& [chosen, flag, value] :
       {std::tuple{has_period(), "--period", period}, {has_rank(), "--rank", rank}}) {
    require(!chosen || value <= length,
            fmt::format("{} {}: expected at most --length {}", flag, value, length));
  }
  if (has_groups()) {
    require(channels % groups == 0,
            fmt::format("--groups {}: expected a divisor of --channels {}", groups, channels));
  }
  if (has_sets()) {
    const auto fits = [&](const char* flag, std::int64_t value) {
      require(value % samples_per_set == 0,
              fmt::format("{} {}: expected a multiple of --samples-per-set {}", flag, value,
                          samples_per_set));
    };
    fits("--batch", batch);
    if (probes != "none") fits("--probe-batch", probe_batch);
    fits("--map-samples", map_samples);
  }
  evaluation_statistics();
}

LocalizerConfig LocalizationSettings::network() const {
  LocalizerConfig config;
  config.depth = depth;
  config.channels = channels;
  config.kernel_size = kernel_size;
  config.padding = padding_from(padding);
  config.norm = norm_kind_from(norm);
  config.groups = groups;
  config.samples_per_set = samples_per_set;
  config.biases = initial_biases == "zero" ? InitialBiases::kZero : InitialBiases::kUniform;
  return config;
}

Statistics LocalizationSettings::evaluation_statistics() const {
  if (eval_statistics == "minibatch") return Statistics::kMinibatch;
  require(network().has_population_statistics(),
          fmt::format("--eval-statistics population: {} norm has no running statistics", norm));
  return Statistics::kPopulation;
}

std::vector<std::int64_t> LocalizationSettings::probed_layers() const {
  std::vector<std::int64_t> layers;
  if (probes == "all") {
    for (std::int64_t layer = 1; layer < depth; ++layer) layers.push_back(layer);
  } else if (probes == "last") {
    layers.push_back(depth - 1);
  }
  return layers;
}

}  // namespace sidechannel::experiments
