#include "kernels/relu.h"

#include "engine/ops.h"

namespace sidechannel {

Var relu(const Var& x) {
  Var y = x.tape().make(x.shape());
  on(x.device(), x.dtype(), [&](auto& queue, auto zero) {
    using T = decltype(zero);
    relu_forward(queue, x.size(), x.data<T>(), y.data<T>());
  });
  x.tape().record(y, {x}, [x, value = y.value()](Grads& g) {
    on(x.device(), x.dtype(), [&](auto& queue, auto zero) {
      using T = decltype(zero);
      relu_backward(queue, value.size(), value.data<T>(), g.output<T>(), g.into<T>(x));
    });
  });
  return y;
}

}  // namespace sidechannel
