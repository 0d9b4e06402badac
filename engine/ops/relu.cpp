#include "kernels/relu.h"

#include "engine/ops.h"

namespace sidechannel {

Var relu(const Var& x) {
  Var y = x.tape().make(x.shape());
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    run(queue, kernels::ReluForward<T>{.size = x.size(), .x = x.data<T>(), .y = y.data<T>()});
  });
  x.tape().record(y, {x}, [x, value = y.value()](Grads& g) {
    on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
      run(queue,
          kernels::ReluBackward<T>{
              .size = value.size(), .y = value.data<T>(), .dy = g.output<T>(), .dx = g.into<T>(x)});
    });
  });
  return y;
}

}  // namespace sidechannel
