#include "engine/optim/adam.h"

#include "kernels/reduce.h"

namespace sidechannel {

Adam::Adam(ParameterList& list, const AdamRule& rule)
    : rule_(rule),
      flat_(list.flatten()),
      m_(Tensor::zeros(list.device(), list.dtype(), flat_.values.shape())),
      v_(Tensor::zeros(list.device(), list.dtype(), flat_.values.shape())),
      squares_(list.device()),
      state_(list.device()) {}

void Adam::step(const Tensor& loss) {
  SC_CHECK(!loss || loss.size() == 1, "adam: expected a loss of one number, got {}",
           loss.shape().str());
  on(m_.device(), m_.dtype(), [&](auto& queue, auto zero) {
    using T = decltype(zero);
    const T* gradients = flat_.grads.data<T>();
    sum_of_squares(queue, m_.size(), gradients, squares_.data());
    adam_begin(queue, rule_, squares_.data(), loss ? loss.data<T>() : nullptr, state_.data());
    adam_update(queue, rule_, state_.data(), m_.size(), gradients, flat_.values.data<T>(),
                m_.data<T>(), v_.data<T>());
  });
}

void Adam::save(std::map<std::string, HostArray>& tensors, const std::string& prefix) const {
  const std::int64_t count = steps();
  tensors[prefix + ".m"] = m_.to_host();
  tensors[prefix + ".v"] = v_.to_host();
  tensors[prefix + ".steps"] = HostArray::from<std::int64_t>(std::span(&count, 1), Shape{});
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
  AdamState state;
  state.steps = steps.as<std::int64_t>()[0];
  state_.set(state);
}

}  // namespace sidechannel
