#include "engine/ops.h"
#include "kernels/copy.h"

namespace sidechannel {

Var reshape(const Var& x, Shape shape) {
  Var y = x.tape().constant(x.value().reshape(shape));
  x.tape().record(y, {x}, [=](Grads& g) {
    on(x.device(), x.dtype(),
       [&]<class T>(auto& queue) { copy(queue, x.size(), g.output<T>(), g.into<T>(x)); });
  });
  return y;
}

}  // namespace sidechannel
