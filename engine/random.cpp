#include "engine/random.h"

#include "kernels/normal.h"

namespace sidechannel {

void Random::advance(std::uint32_t steps, std::uint32_t samples) {
  on(device_, [&](auto& queue) {
    run(queue, kernels::RandomAdvance{.at = at_.data(), .by = {steps, samples}});
  });
}

CosSin cos_sin_of_turns(float turns) {
  CosSin result{};
  kernels::cos_sin_of_turns(turns, &result.cosine, &result.sine);
  return result;
}

}  // namespace sidechannel
