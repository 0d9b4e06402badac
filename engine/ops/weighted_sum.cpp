#include "kernels/weighted_sum.h"

#include <vector>

#include "engine/ops.h"

namespace sidechannel {

Var weighted_sum(std::span<const WeightedTerm> terms, const Held& held) {
  constexpr const char* kName = "weighted_sum";
  SC_CHECK(!terms.empty() && terms.size() <= kernels::kMostTerms,
           "{}: expected 1 to {} terms, got {}", kName, kernels::kMostTerms, terms.size());
  const Var& first = terms[0].x;
  const Shape& shape = first.shape();
  SC_CHECK(shape.rank() == 3, "{}: expected x of shape [N, L, C], got {}", kName, shape.str());
  const auto expect = [&](const char* what, const Shape& actual, const Shape& expected) {
    SC_CHECK(actual == expected, "{}: expected {} of shape {}, got {}", kName, what, expected.str(),
             actual.str());
  };
  std::vector<Var> inputs;
  for (const auto& [w, x] : terms) {
    expect("x", x.shape(), shape);
    expect("weights", w.shape(), {shape[0]});
    SC_CHECK(!w.requires_grad(), "{}: no gradient goes to weights", kName);
    inputs.insert(inputs.end(), {w, x});
  }
  if (held.where) {
    SC_CHECK(held.where.dtype() == first.dtype() && held.where.device() == first.device(),
             "{}: expected what is held in {} on {}, as x is", kName, name_of(first.dtype()),
             first.device().name());
    expect("what is held", held.where.shape(), {shape[1], shape[2]});
    expect("values that are held", held.x.shape(), shape);
    inputs.push_back(held.x);
  }
  const kernels::WeightedSumDims dims{shape[0], shape[1] * shape[2],
                                      static_cast<int>(terms.size())};
  Tape& tape = first.tape();
  Var y = tape.make(shape);
  on(first.device(), first.dtype(), [&]<class T>(auto& queue) {
    kernels::WeightedSumForward<T> call{.dims = dims, .y = y.data<T>()};
    for (std::size_t j = 0; j < terms.size(); ++j) {
      call.w[j] = terms[j].w.data<T>();
      call.x[j] = terms[j].x.data<T>();
    }
    if (held.where) {
      call.held = held.where.data<T>();
      call.hold = held.x.data<T>();
    }
    run(queue, call);
  });
  tape.record(y, inputs, [=, kept = std::vector(terms.begin(), terms.end())](Grads& g) {
    on(kept[0].x.device(), kept[0].x.dtype(), [&]<class T>(auto& queue) {
      kernels::WeightedSumBackward<T> call{.dims = dims, .dy = g.output<T>()};
      for (std::size_t j = 0; j < kept.size(); ++j) {
        call.w[j] = kept[j].w.data<T>();
        call.dx[j] = g.into<T>(kept[j].x);
      }
      if (held.where) {
        call.held = held.where.data<T>();
        call.dhold = g.into<T>(held.x);
      }
      run(queue, call);
    });
  });
  return y;
}

}  // namespace sidechannel
