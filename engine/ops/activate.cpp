#include "kernels/activate.h"

#include "engine/ops.h"

namespace sidechannel {

Var activate(const Var& x, Activation activation) {
  Var y = x.tape().make(x.shape());
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    run(queue, kernels::ActivateForward<T>{
                   .size = x.size(), .activation = activation, .x = x.data<T>(), .y = y.data<T>()});
  });
  const Tensor kept = kernels::output_tells_gradient(activation) ? y.value() : x.value();
  x.tape().record(y, {x}, [=](Grads& g) {
    on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
      run(queue, kernels::ActivateBackward<T>{.size = kept.size(),
                                              .activation = activation,
                                              .kept = kept.data<T>(),
                                              .dy = g.output<T>(),
                                              .dx = g.into<T>(x)});
    });
  });
  return y;
}

Var relu(const Var& x) {
  return activate(x, Activation::kRelu);
}

}  // namespace sidechannel
