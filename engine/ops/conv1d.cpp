#include "kernels/conv1d.h"

#include <algorithm>

#include "engine/ops.h"
#include "engine/ops/dims.h"

namespace sidechannel {

void check_convolution(const char* name, const Shape& x, const Var& w, const char* w_shape,
                       int axis_in, const Var& b, std::int64_t padding, std::int64_t stride) {
  SC_CHECK(x.rank() == 3, "{}: expected x of shape [N, L, C], got {}", name, x.str());
  SC_CHECK(w.shape().rank() == 3, "{}: expected a weight of shape {}, got {}", name, w_shape,
           w.shape().str());
  const std::int64_t in = w.shape()[axis_in], out = w.shape()[3 - axis_in];
  SC_CHECK(in == x[2], "{}: weight expects C_in = {}, got x of C = {}", name, in, x[2]);
  SC_CHECK((b.shape() == Shape{out}), "{}: expected a bias of shape [{}], got {}", name, out,
           b.shape().str());
  SC_CHECK(padding >= 0 && padding < w.shape()[0],
           "{}: expected a padding from 0 to k - 1 = {}, got {}", name, w.shape()[0] - 1, padding);
  SC_CHECK(stride >= 1, "{}: expected a stride of 1 or more, got {}", name, stride);
}

kernels::Conv1dDims conv1d_dims(const char* name, const Shape& x, const Var& w, const Var& b,
                                std::int64_t padding, std::int64_t stride) {
  check_convolution(name, x, w, "[k, C_in, C_out]", 1, b, padding, stride);
  const kernels::Conv1dDims dims{
      .batch = x[0],
      .length = x[1],
      .channels_in = x[2],
      .channels_out = w.shape()[2],
      .kernel_size = w.shape()[0],
      .padding = padding,
      // One that leads out of x is as good as any longer one.
      .stride = std::min(stride, std::max<std::int64_t>(x[1] + 2 * padding, 1))};
  SC_CHECK(dims.length_out() >= (dims.length == 0 ? 0 : 1),  // nothing in, nothing out
           "{}: a kernel of {} with padding {} does not fit into a sequence of {}", name,
           dims.kernel_size, padding, dims.length);
  return dims;
}

// A circular convolution is the one without padding of a ring that is cut open further: a copy of x
// more, and no kernel that has to know of rings.
Var conv1d(const Var& x, const Var& w, const Var& b, std::int64_t padding,
           const Conv1dOptions& options) {
  const kernels::Conv1dDims dims = conv1d_dims("conv1d", x.shape(), w, b, padding, options.stride);
  if (options.mode == PaddingMode::kCircular && padding > 0 && dims.length > 0) {
    return conv1d(circular_pad(x, padding, padding), w, b, 0, {.stride = options.stride});
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
