#include "kernels/circular_pad.h"

#include "engine/checked.h"
#include "engine/ops.h"

namespace sidechannel {

Var circular_pad(const Var& x, std::int64_t before, std::int64_t after) {
  SC_CHECK(x.shape().rank() == 3, "circular_pad: expected x of shape [N, L, C], got {}",
           x.shape().str());
  SC_CHECK(before >= 0 && after >= 0,
           "circular_pad: expected 0 or more positions at each end, got {} and {}", before, after);
  SC_CHECK(x.shape()[1] > 0, "circular_pad: nothing to go on with in a sequence of 0");
  const kernels::CircularPadDims dims{x.shape()[0], x.shape()[1], x.shape()[2], before, after};
  const std::int64_t length =
      checked_sum("circular_pad", dims.length, checked_sum("circular_pad", before, after));
  Var y = x.tape().make({dims.batch, length, dims.channels});
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    run(queue, kernels::CircularPadForward<T>{.dims = dims, .x = x.data<T>(), .y = y.data<T>()});
  });
  x.tape().record(y, {x}, [=](Grads& g) {
    on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
      run(queue,
          kernels::CircularPadBackward<T>{.dims = dims, .dy = g.output<T>(), .dx = g.into<T>(x)});
    });
  });
  return y;
}

}  // namespace sidechannel
