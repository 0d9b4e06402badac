#include "kernels/add.h"

#include "engine/ops.h"

namespace sidechannel {

Var add(const Var& a, const Var& b) {
  const Shape& x = a.shape();
  const bool alike = x == b.shape();
  SC_CHECK(alike || (x.rank() == 3 && b.shape() == Shape{x[0], x[2]}),
           "add: expected two of one shape, or [N, L, C] and [N, C], got {} and {}", x.str(),
           b.shape().str());
  const kernels::AddDims dims =
      alike ? kernels::AddDims{1, 1, x.size()} : kernels::AddDims{x[0], x[1], x[2]};
  Var y = a.tape().make(x);
  on(a.device(), a.dtype(), [&]<class T>(auto& queue) {
    run(queue,
        kernels::AddForward<T>{.dims = dims, .a = a.data<T>(), .b = b.data<T>(), .y = y.data<T>()});
  });
  a.tape().record(y, {a, b}, [=](Grads& g) {
    on(a.device(), a.dtype(), [&]<class T>(auto& queue) {
      run(queue, kernels::AddBackward<T>{
                     .dims = dims, .dy = g.output<T>(), .da = g.into<T>(a), .db = g.into<T>(b)});
    });
  });
  return y;
}

}  // namespace sidechannel
