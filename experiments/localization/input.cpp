#include "experiments/localization/input.h"

namespace sidechannel::experiments {

Input input_from(const std::string& name) {
  if (name == "noise") return Input::kNoise;
  if (name == "constant") return Input::kConstant;
  throw UsageError(fmt::format("input {}: expected noise or constant", name));
}

InputSource::InputSource(const Device& device, Input input, std::int64_t batch, std::int64_t length,
                         Stream stream)
    : length_(length), stream_(stream) {
  if (input == Input::kNoise) return;
  constant_ = Tensor(device, DType::kF32, {batch * length});
  constant_.fill(1);
}

Var InputSource::operator()(Tape& tape, const Random& random, std::int64_t samples) const {
  const Shape shape{samples, length_, 1};
  if (!constant_) return tape.normal(shape, stream_, random);
  return tape.constant(constant_.slice(0, samples * length_).reshape(shape));
}

}  // namespace sidechannel::experiments
