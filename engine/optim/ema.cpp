#include "engine/optim/ema.h"

#include "kernels/ema.h"

namespace sidechannel {
namespace {

Tensor copy_of(const Tensor& x) {
  Tensor copy(x.device(), x.dtype(), x.shape());
  copy.copy_from(x);
  return copy;
}

}  // namespace

Ema::Ema(ParameterList& list, double decay)
    : decay_(decay), values_(list.flatten().values), average_(copy_of(values_)) {
  SC_CHECK(decay >= 0 && decay <= 1, "ema: expected a decay from 0 to 1, got {}", decay);
}

void Ema::update(const std::int64_t* halted) {
  on(values_.device(), values_.dtype(), [&]<class T>(auto& queue) {
    run(queue, kernels::EmaUpdate<T>{.decay = decay_,
                                     .halted = halted,
                                     .size = values_.size(),
                                     .value = values_.data<T>(),
                                     .average = average_.data<T>()});
  });
}

Ema::InPlace::InPlace(const Ema& ema) : values_(ema.values_), trained_(copy_of(values_)) {
  values_.copy_from(ema.average_);
}

Ema::InPlace::~InPlace() {
  try {
    values_.copy_from(trained_);
  } catch (const Error&) {
    // The device has failed, and says so again to whoever uses it next.
  }
}

void Ema::save(TensorMap& tensors, const std::string& prefix) const {
  tensors[prefix + ".average"] = average_.to_host();
}

void Ema::load(const TensorMap& tensors, const std::string& source, const std::string& prefix) {
  average_.copy_from(
      tensor_in(tensors, source, prefix + ".average", average_.dtype(), average_.shape()));
}

}  // namespace sidechannel
