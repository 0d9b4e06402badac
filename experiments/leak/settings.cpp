#include "experiments/leak/settings.h"

#include "experiments/run/unet_settings.h"

namespace sidechannel::experiments {

TemporalUnetConfig LeakSettings::unet() const {
  TemporalUnetConfig config;
  config.transition = transition;
  config.dim = dim;
  config.multipliers = multipliers_from(multipliers);
  config.kernel_size = kernel_size;
  config.steps = step + 1;
  config.norm = norm_kind_from(norm);
  config.groups = groups;
  config.samples_per_set = samples_per_set;
  return config;
}

void LeakSettings::check() const {
  check_domains(all_settings<LeakSettings>(), *this);
}

}  // namespace sidechannel::experiments
