#include "engine/random.h"

namespace sidechannel {

void Random::advance(std::uint32_t steps, std::uint32_t samples) {
  on(device_, [&](auto& queue) { random_advance(queue, at_.data(), {steps, samples}); });
}

}  // namespace sidechannel
