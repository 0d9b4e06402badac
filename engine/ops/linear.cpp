#include "kernels/linear.h"

#include "engine/ops.h"

namespace sidechannel {

Var linear(const Var& x, const Var& w, const Var& b, Activation activation) {
  SC_CHECK(x.shape().rank() == 2, "linear: expected x of shape [rows, in], got {}",
           x.shape().str());
  SC_CHECK(w.shape().rank() == 2 && w.shape()[1] == x.shape()[1],
           "linear: expected a weight of shape [out, {}], got {}", x.shape()[1], w.shape().str());
  SC_CHECK(b.shape() == Shape{w.shape()[0]}, "linear: expected a bias of shape [{}], got {}",
           w.shape()[0], b.shape().str());
  // The fused layer keeps y alone.
  if (!kernels::output_tells_gradient(activation)) return activate(linear(x, w, b), activation);
  const kernels::LinearDims dims{
      .rows = x.shape()[0], .in = x.shape()[1], .out = w.shape()[0], .activation = activation};
  Var y = x.tape().make({dims.rows, dims.out});
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    run(queue,
        kernels::LinearForward<T>{
            .dims = dims, .x = x.data<T>(), .w = w.data<T>(), .b = b.data<T>(), .y = y.data<T>()});
  });
  x.tape().record(y, {x, w, b}, [=, value = y.value()](Grads& g) {
    on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
      run(queue, kernels::LinearBackward<T>{.dims = dims,
                                            .x = x.data<T>(),
                                            .w = w.data<T>(),
                                            .y = value.data<T>(),
                                            .dy = g.output<T>(),
                                            .dx = g.into<T>(x),
                                            .dw = g.into<T>(w),
                                            .db = g.into<T>(b)});
    });
  });
  return y;
}

}  // namespace sidechannel
