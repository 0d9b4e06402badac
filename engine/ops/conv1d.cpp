#include "kernels/conv1d.h"

#include "engine/ops.h"

namespace sidechannel {

Var conv1d(const Var& x, const Var& w, const Var& b, std::int64_t padding) {
  SC_CHECK(x.shape().rank() == 3, "conv1d: expected x of shape [N, L, C], got {}", x.shape().str());
  SC_CHECK(w.shape().rank() == 3, "conv1d: expected a weight of shape [k, C_in, C_out], got {}",
           w.shape().str());
  SC_CHECK(w.shape()[1] == x.shape()[2], "conv1d: weight expects C_in = {}, got x of C = {}",
           w.shape()[1], x.shape()[2]);
  SC_CHECK((b.shape() == Shape{w.shape()[2]}), "conv1d: expected a bias of shape [{}], got {}",
           w.shape()[2], b.shape().str());
  SC_CHECK(padding >= 0 && padding < w.shape()[0],
           "conv1d: expected a padding from 0 to k - 1 = {}, got {}", w.shape()[0] - 1, padding);
  const kernels::Conv1dDims dims{.batch = x.shape()[0],
                                 .length = x.shape()[1],
                                 .channels_in = x.shape()[2],
                                 .channels_out = w.shape()[2],
                                 .kernel_size = w.shape()[0],
                                 .padding = padding};
  SC_CHECK(dims.length_out() >= (dims.length == 0 ? 0 : 1),  // nothing in, nothing out
           "conv1d: a kernel of {} with padding {} does not fit into a sequence of {}",
           dims.kernel_size, padding, dims.length);

  Var y = x.tape().make({dims.batch, dims.length_out(), dims.channels_out});
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    run(queue,
        kernels::Conv1dForward<T>{
            .dims = dims, .x = x.data<T>(), .w = w.data<T>(), .b = b.data<T>(), .y = y.data<T>()});
  });
  x.tape().record(y, {x, w, b}, [=](Grads& g) {
    on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
      const T* dy = g.output<T>();
      run(queue, kernels::Conv1dBackwardInput<T>{
                     .dims = dims, .dy = dy, .w = w.data<T>(), .dx = g.into<T>(x)});
      run(queue,
          kernels::Conv1dBackwardParams<T>{
              .dims = dims, .x = x.data<T>(), .dy = dy, .dw = g.into<T>(w), .db = g.into<T>(b)});
    });
  });
  return y;
}

}  // namespace sidechannel
