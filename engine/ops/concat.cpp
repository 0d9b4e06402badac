#include "kernels/concat.h"

#include "engine/ops.h"

namespace sidechannel {

Var concat(const Var& a, const Var& b) {
  const Shape &x = a.shape(), &z = b.shape();
  SC_CHECK(x.rank() == 3 && z.rank() == 3 && x[0] == z[0] && x[1] == z[1],
           "concat: expected two [N, L, C] of one N and one L, got {} and {}", x.str(), z.str());
  const kernels::ConcatDims dims{x[0] * x[1], x[2], z[2]};
  Var y = a.tape().make({x[0], x[1], dims.channels()});
  on(a.device(), a.dtype(), [&]<class T>(auto& queue) {
    run(queue, kernels::ConcatForward<T>{
                   .dims = dims, .a = a.data<T>(), .b = b.data<T>(), .y = y.data<T>()});
  });
  a.tape().record(y, {a, b}, [=](Grads& g) {
    on(a.device(), a.dtype(), [&]<class T>(auto& queue) {
      run(queue, kernels::ConcatBackward<T>{
                     .dims = dims, .dy = g.output<T>(), .da = g.into<T>(a), .db = g.into<T>(b)});
    });
  });
  return y;
}

}  // namespace sidechannel
