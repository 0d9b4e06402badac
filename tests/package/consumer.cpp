// A program outside the project: trains a small localizer for some steps.

#include <cstdio>

#include "engine/optim/adam.h"
#include "models/localizer.h"

int main() {
  using namespace sidechannel;
  const Device device = Device::cpu(1);
  LocalizerConfig config;
  config.depth = 3;
  config.channels = 4;
  Localizer network(device, DType::kF32, config, /*seed=*/0);
  Adam adam(network.parameters(), {LearningRate{1e-2}});
  const Tensor target = Tensor::zeros(device, DType::kF32, {16});
  Tape tape(device);
  Random random(device, /*seed=*/0);
  double first = 0;
  double last = 0;
  for (int step = 0; step < 50; ++step) {
    tape.reset();
    const Var loss = mse(network(tape.normal({4, 16, 1}, Stream::kNoise, random)), target);
    tape.backward(loss);
    adam.step(loss.value());
    random.advance(1);
    last = loss.value().item();
    if (step == 0) first = last;
  }
  std::printf("loss %g -> %g\n", first, last);
  return last < first ? 0 : 1;
}
