#include "kernels/mse.h"

#include "engine/ops.h"

namespace sidechannel {

Var mse(const Var& y, const Tensor& target) {
  SC_CHECK(target && target.dtype() == y.dtype(), "mse: expected a target of type {}",
           name_of(y.dtype()));
  SC_CHECK(target.size() > 0 ? y.size() % target.size() == 0 : y.size() == 0,
           "mse: a target of {} does not fit a prediction of {}", target.shape().str(),
           y.shape().str());
  const kernels::MseDims dims{y.size(), target.size()};
  Var loss = y.tape().make({1});
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

}  // namespace sidechannel
