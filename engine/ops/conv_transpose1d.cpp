#include "engine/checked.h"
#include "engine/ops.h"
#include "engine/ops/dims.h"
#include "kernels/conv1d.h"

namespace sidechannel {
namespace {

// Of the convolution that is led backwards: its inputs are y, its outputs x.
kernels::Conv1dDims reversed_dims(const Shape& x, const Var& w, const Var& b, std::int64_t padding,
                                  std::int64_t stride) {
  constexpr const char* kName = "conv_transpose1d";
  check_convolution(kName, x, w, "[k, C_out, C_in]", 2, b, padding, stride);
  const std::int64_t taps = w.shape()[0];
  const std::int64_t length =
      checked_sum(kName, checked_product(kName, x[1] - 1, stride), taps - 2 * padding);
  SC_CHECK(length >= (x[1] == 0 ? 0 : 1),  // nothing in, nothing out
           "{}: a kernel of {} with padding {} makes nothing of a sequence of {}", kName, taps,
           padding, x[1]);
  return {.batch = x[0],
          .length = length,
          .channels_in = w.shape()[1],
          .channels_out = x[2],
          .kernel_size = taps,
          .padding = padding,
          .stride = x[1] == 1 ? 1 : stride};  // of one position any stride makes the same
}

}  // namespace

// No kernels of its own: those of the convolution, with what they read and what they write in each
// other's place.
Var conv_transpose1d(const Var& x, const Var& w, const Var& b, std::int64_t padding,
                     std::int64_t stride) {
  const kernels::Conv1dDims dims = reversed_dims(x.shape(), w, b, padding, stride);
  Var y = x.tape().make({dims.batch, dims.length, dims.channels_in});
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    run(queue, kernels::Conv1dBackwardInput<T>{.dims = dims,
                                               .dy = x.data<T>(),
                                               .w = w.data<T>(),
                                               .b = b.data<T>(),
                                               .dx = {y.data<T>()}});
  });
  x.tape().record(y, {x, w, b}, [=](Grads& g) {
    on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
      const T* dy = g.output<T>();
      if (const kernels::GradOut<T> dx = g.into<T>(x); dx.data) {
        run(queue, kernels::Conv1dForward<T>{
                       .dims = dims, .x = dy, .w = w.data<T>(), .y = dx.data, .write = dx.write});
      }
      run(queue, kernels::Conv1dBackwardParams<T>{
                     .dims = dims, .x = dy, .dy = x.data<T>(), .dw = g.into<T>(w)});
      // A bias's gradient is the sum of dy, of whatever convolution: here of one tap and no inputs.
      run(queue, kernels::Conv1dBackwardParams<T>{.dims = {.batch = dims.batch,
                                                           .length = dims.length,
                                                           .channels_in = 0,
                                                           .channels_out = dims.channels_in,
                                                           .kernel_size = 1,
                                                           .padding = 0},
                                                  .dy = dy,
                                                  .db = g.into<T>(b)});
    });
  });
  return y;
}

}  // namespace sidechannel
