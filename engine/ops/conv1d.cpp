#include "kernels/conv1d.h"

#include "engine/ops.h"
#include "engine/ops/dims.h"

namespace sidechannel {

kernels::Conv1dDims conv1d_dims(const char* name, const Shape& x, const Var& w, const Var& b,
                                std::int64_t padding) {
  SC_CHECK(x.rank() == 3, "{}: expected x of shape [N, L, C], got {}", name, x.str());
  SC_CHECK(w.shape().rank() == 3, "{}: expected a weight of shape [k, C_in, C_out], got {}", name,
           w.shape().str());
  SC_CHECK(w.shape()[1] == x[2], "{}: weight expects C_in = {}, got x of C = {}", name,
           w.shape()[1], x[2]);
  SC_CHECK((b.shape() == Shape{w.shape()[2]}), "{}: expected a bias of shape [{}], got {}", name,
           w.shape()[2], b.shape().str());
  SC_CHECK(padding >= 0 && padding < w.shape()[0],
           "{}: expected a padding from 0 to k - 1 = {}, got {}", name, w.shape()[0] - 1, padding);
  const kernels::Conv1dDims dims{.batch = x[0],
                                 .length = x[1],
                                 .channels_in = x[2],
                                 .channels_out = w.shape()[2],
                                 .kernel_size = w.shape()[0],
                                 .padding = padding};
  SC_CHECK(dims.length_out() >= (dims.length == 0 ? 0 : 1),  // nothing in, nothing out
           "{}: a kernel of {} with padding {} does not fit into a sequence of {}", name,
           dims.kernel_size, padding, dims.length);
  return dims;
}

// A circular convolution is the one without padding of a ring that is cut open further: a copy of x
// more, and no kernel that has to know of rings.
Var conv1d(const Var& x, const Var& w, const Var& b, std::int64_t padding, PaddingMode mode) {
  const kernels::Conv1dDims dims = conv1d_dims("conv1d", x.shape(), w, b, padding);
  if (mode == PaddingMode::kCircular && padding > 0 && dims.length > 0) {
    return conv1d(circular_pad(x, padding, padding), w, b, 0);
  }
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
