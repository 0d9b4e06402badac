#include "experiments/localization/settings.h"

#include <tuple>

#include "experiments/run/unet_settings.h"

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
  if (is_unet()) {
    TemporalUnetConfig::Names flags = kUnetFlags;
    flags.dim = "--channels";
    unet().check(flags);
    require(length % unet().stride() == 0,
            fmt::format("--length {}: expected a multiple of {} for --multipliers {}", length,
                        unet().stride(), multipliers));
    require(!has_probes(), "--network unet: its layers take no probes; give --probes none");
    require(padding == "zeros" && initial_biases == "uniform",
            "--network unet: its convolutions have --padding zeros and --initial-biases uniform");
  } else if (has_groups()) {
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
    if (has_probes()) fits("--probe-batch", probe_batch);
    fits("--map-samples", map_samples);
  }
  evaluation_statistics();
}

LocalizerConfig LocalizationSettings::localizer() const {
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

TemporalUnetConfig LocalizationSettings::unet() const {
  return {.transition = 1,
          .dim = channels,
          .multipliers = multipliers_from(multipliers),
          .kernel_size = kernel_size,
          .steps = 1,
          .norm = norm_kind_from(norm),
          .groups = groups,
          .samples_per_set = samples_per_set};
}

std::unique_ptr<Network> LocalizationSettings::make_network(const Device& on_device) const {
  if (is_unet()) {
    return std::make_unique<TemporalUnet>(on_device, DType::kF32, unet(), random_seed());
  }
  return std::make_unique<Localizer>(on_device, DType::kF32, localizer(), random_seed());
}

std::int64_t LocalizationSettings::radius() const {
  if (is_localizer()) return localizer().receptive_field();
  return TemporalUnet(Device::cpu(1), DType::kF32, unet(), 0).reach().further();
}

Statistics LocalizationSettings::evaluation_statistics() const {
  if (eval_statistics == "minibatch") return Statistics::kMinibatch;
  require(info_of(norm_kind_from(norm)).has_running_statistics,
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
