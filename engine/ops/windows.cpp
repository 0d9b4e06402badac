#include "kernels/windows.h"

#include "engine/checked.h"
#include "engine/ops.h"

namespace sidechannel {

Var windows(const Var& x, std::int64_t count, std::int64_t length, std::int64_t stride) {
  SC_CHECK(count >= 1 && length >= 1 && stride >= 0,
           "windows: {} windows of length {} by a stride of {}", count, length, stride);
  SC_CHECK(x.shape().rank() == 2, "windows: expected x of shape [N, L], got {}", x.shape().str());
  const kernels::WindowsDims dims{x.shape()[0], count, length, stride};
  const std::int64_t span =
      checked_sum("windows", checked_product("windows", count - 1, stride), length);
  SC_CHECK(x.shape()[1] == span,
           "windows: {} windows of length {} by a stride of {} span {} positions, x has {}", count,
           length, stride, span, x.shape()[1]);
  Var y = x.tape().make({checked_product("windows", dims.samples, count), length});
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    run(queue, kernels::WindowsForward<T>{.dims = dims, .x = x.data<T>(), .y = y.data<T>()});
  });
  x.tape().record(y, {x}, [=](Grads& g) {
    on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
      run(queue,
          kernels::WindowsBackward<T>{.dims = dims, .dy = g.output<T>(), .dx = g.into<T>(x)});
    });
  });
  return y;
}

}  // namespace sidechannel
