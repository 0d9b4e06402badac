#include "kernels/mse.h"

#include "engine/ops.h"

namespace sidechannel {

namespace {

// [sets]
Var losses(const Var& y, std::int64_t sets, const Tensor& target) {
  SC_CHECK(target && target.dtype() == y.dtype(), "mse: expected a target of type {}",
           name_of(y.dtype()));
  const std::int64_t size = sets > 0 ? y.size() / sets : 0;
  SC_CHECK(target.size() > 0 ? size % target.size() == 0 : size == 0,
           "mse: a target of {} does not fit a prediction of {}", target.shape().str(),
           y.shape().str());
  const kernels::MseDims dims{size, target.size(), sets};
  Var loss = y.tape().make({sets});
  on(y.device(), y.dtype(), [&]<class T>(auto& queue) {
    run(queue,
        kernels::MseForward<T>{
            .dims = dims, .y = y.data<T>(), .target = target.data<T>(), .loss = loss.data<T>()});
  });
  y.tape().record(loss, {y}, [=](Grads& g) {
    on(y.device(), y.dtype(), [&]<class T>(auto& queue) {
      run(queue, kernels::MseBackward<T>{.dims = dims,
                                         .y = y.data<T>(),
                                         .target = target.data<T>(),
                                         .dloss = g.output<T>(),
                                         .dy = g.into<T>(y)});
    });
  });
  return loss;
}

}  // namespace

Var mse(const Var& y, const Tensor& target) {
  return losses(y, 1, target);
}

Var mse_of_each(const Var& y, const Tensor& target) {
  SC_CHECK(y.shape().rank() >= 1, "mse: expected sets of predictions, got {}", y.shape().str());
  return losses(y, y.shape()[0], target);
}

}  // namespace sidechannel
