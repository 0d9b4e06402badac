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
  on(m_.device(), m_.dtype(), [&]<class T>(auto& queue) {
    const T* gradients = flat_.grads.data<T>();
    run(queue,
        kernels::SumOfSquares<T>{.size = m_.size(), .x = gradients, .result = squares_.data()});
    run(queue, kernels::AdamBegin<T>{.rule = rule_,
                                     .sum_of_squares = squares_.data(),
                                     .loss = loss ? loss.data<T>() : nullptr,
                                     .state = state_.data()});
    run(queue, kernels::AdamUpdate<T>{.rule = rule_,
                                      .state = state_.data(),
                                      .size = m_.size(),
                                      .g = gradients,
                                      .p = flat_.values.data<T>(),
                                      .m = m_.data<T>(),
                                      .v = v_.data<T>()});
  });
}

bool Adam::moves_all_of(const ParameterList& list) const {
  return list.lies_in(flat_);
}

void Adam::save(TensorMap& tensors, const std::string& prefix) const {
  tensors[prefix + ".m"] = m_.to_host();
  tensors[prefix + ".v"] = v_.to_host();
  tensors[prefix + ".steps"] = scalar(steps());
}

void Adam::load(const TensorMap& tensors, const std::string& source, const std::string& prefix,
                std::int64_t least, std::int64_t most) {
  const HostArray& m = tensor_in(tensors, source, prefix + ".m", m_.dtype(), m_.shape());
  const HostArray& v = tensor_in(tensors, source, prefix + ".v", v_.dtype(), v_.shape());
  check_not_negative(v, source, prefix + ".v");  // averages of squares, whose roots are taken
  AdamState state;
  state.steps = whole_number_in(tensors, source, prefix + ".steps", least, most);
  m_.copy_from(m);
  v_.copy_from(v);
  state_.set(state);
}

}  // namespace sidechannel
