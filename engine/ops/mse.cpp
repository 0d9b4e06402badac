#include "kernels/mse.h"

#include "engine/ops.h"

namespace sidechannel {

namespace {

// [sets]
Var losses(const Var& y, std::int64_t sets, const Tensor& target, const Tensor& weights = {}) {
  SC_CHECK(target && target.dtype() == y.dtype(), "mse: expected a target of type {}",
           name_of(y.dtype()));
  SC_CHECK(!weights || weights.dtype() == y.dtype(), "mse: expected weights of type {}",
           name_of(y.dtype()));
  const std::int64_t size = sets > 0 ? y.size() / sets : 0;
  const auto fits = [&](const Tensor& one) {
    return one.size() > 0 ? size % one.size() == 0 : size == 0;
  };
  SC_CHECK(fits(target), "mse: a target of {} does not fit a prediction of {}",
           target.shape().str(), y.shape().str());
  SC_CHECK(!weights || fits(weights), "mse: weights of {} do not fit a prediction of {}",
           weights.shape().str(), y.shape().str());
  const kernels::MseDims dims{size, target.size(), sets, weights.size()};
  Var loss = y.tape().make({sets});
  on(y.device(), y.dtype(), [&]<class T>(auto& queue) {
    run(queue, kernels::MseForward<T>{.dims = dims,
                                      .y = y.data<T>(),
                                      .target = target.data<T>(),
                                      .weights = weights ? weights.data<T>() : nullptr,
                                      .loss = loss.data<T>()});
  });
  y.tape().record(loss, {y}, [=](Grads& g) {
    on(y.device(), y.dtype(), [&]<class T>(auto& queue) {
      run(queue, kernels::MseBackward<T>{.dims = dims,
                                         .y = y.data<T>(),
                                         .target = target.data<T>(),
                                         .weights = weights ? weights.data<T>() : nullptr,
                                         .dloss = g.output<T>(),
                                         .dy = g.into<T>(y)});
    });
  });
  return loss;
}

}  // namespace

Var mse(const Var& y, const Tensor& target, const Tensor& weights) {
  return losses(y, 1, target, weights);
}

Var mse_of_each(const Var& y, const Tensor& target) {
  SC_CHECK(y.shape().rank() >= 1, "mse: expected sets of predictions, got {}", y.shape().str());
  return losses(y, y.shape()[0], target);
}

}  // namespace sidechannel
