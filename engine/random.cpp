#include "engine/random.h"

namespace sidechannel {

void Random::advance(std::uint32_t steps, std::uint32_t samples) {
  on(device_, [&](auto& queue) {
    run(queue, kernels::RandomAdvance{.at = at_.data(), .by = {steps, samples}});
  });
}

}  // namespace sidechannel
