#include "engine/optim/adam.h"

#include <cmath>

#include "kernels/adam.h"
#include "kernels/reduce.h"

namespace sidechannel {

Adam::Adam(ParameterList& list, AdamOptions options)
    : options_(options),
      flat_(list.flatten()),
      m_(Tensor::zeros(list.device(), list.dtype(), flat_.values.shape())),
      v_(Tensor::zeros(list.device(), list.dtype(), flat_.values.shape())) {}

void Adam::step(double learning_rate) {
  ++steps_;
  const kernels::AdamStep adam{learning_rate, options_.beta1, options_.beta2, options_.epsilon,
                               steps_};
  on(m_.device(), m_.dtype(), [&](auto& queue, auto zero) {
    using T = decltype(zero);
    adam_update(queue, adam, m_.size(), flat_.grads.data<T>(), flat_.values.data<T>(), m_.data<T>(),
                v_.data<T>());
  });
}

double Adam::gradient_norm() const {
  double squares = 0;
  on(m_.device(), m_.dtype(), [&](auto& queue, auto zero) {
    sum_of_squares(queue, m_.size(), flat_.grads.data<decltype(zero)>(), &squares);
  });
  return std::sqrt(squares);
}

void Adam::save(std::map<std::string, HostArray>& tensors, const std::string& prefix) const {
  tensors[prefix + ".m"] = m_.to_host();
  tensors[prefix + ".v"] = v_.to_host();
  tensors[prefix + ".steps"] = HostArray::from<std::int64_t>(std::span(&steps_, 1), Shape{});
}

void Adam::load(const std::map<std::string, HostArray>& tensors, const std::string& source,
                const std::string& prefix) {
  const auto take = [&](const char* name) -> const HostArray& {
    const auto found = tensors.find(prefix + name);
    SC_CHECK(found != tensors.end(), "{}: has no tensor {}{}", source, prefix, name);
    return found->second;
  };
  const HostArray& m = take(".m");
  const HostArray& v = take(".v");
  const HostArray& steps = take(".steps");
  SC_CHECK(m.shape == m_.shape() && v.shape == v_.shape() && m.dtype == m_.dtype() &&
               v.dtype == v_.dtype() && steps.shape == Shape{} && steps.dtype == DType::kI64,
           "{}: the optimizer's state is not that of this model", source);
  m_.copy_from(m);
  v_.copy_from(v);
  steps_ = steps.as<std::int64_t>()[0];
}

}  // namespace sidechannel
