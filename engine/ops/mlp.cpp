#include "kernels/mlp.h"

#include "engine/ops.h"
#include "engine/ops/together.h"

namespace sidechannel {
namespace {

// Calls f(queue, type) on devices that have kernels for perceptrons.
template <class F>
void with_kernels(const Var& x, const F& f) {
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    if constexpr (requires(const kernels::MlpForward<T>& call) { run(queue, call); }) {
      f.template operator()<T>(queue);
    }
  });
}

kernels::MlpDims dims_of(std::span<const Var> x, std::span<const MlpParameters> networks) {
  SC_CHECK(!x.empty() && x.size() == networks.size(),
           "mlp: expected an x for each of {} networks, got {}", networks.size(), x.size());
  SC_CHECK(x[0].shape().rank() == 2, "mlp: expected x of shape [rows, in], got {}",
           x[0].shape().str());
  const std::int64_t rows = x[0].shape()[0], in = x[0].shape()[1];
  const std::int64_t width = networks[0].b1.size();
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto expect = [](const char* what, const Var& var, const Shape& shape) {
      SC_CHECK(var.shape() == shape, "mlp: expected {} of shape {}, got {}", what, shape.str(),
               var.shape().str());
    };
    const auto& [w1, b1, w2, b2, w3, b3] = networks[i];
    expect("x", x[i], {rows, in});
    expect("w1", w1, {width, in});
    expect("b1", b1, {width});
    expect("w2", w2, {width, width});
    expect("b2", b2, {width});
    expect("w3", w3, {1, width});
    expect("b3", b3, {1});
  }
  return {.rows = rows, .in = in, .width = width};
}

// The networks that are computed at once, and what a forward pass leaves for the way back.
struct Kept {
  kernels::MlpDims dims;
  std::vector<Var> x;
  std::vector<MlpParameters> networks;
  Tensor hidden;

  std::vector<Var> inputs() const {
    std::vector<Var> all = x;
    for (const auto& [w1, b1, w2, b2, w3, b3] : networks) {
      all.insert(all.end(), {w1, b1, w2, b2, w3, b3});
    }
    return all;
  }
  // The networks of a call.
  template <class T>
  std::vector<kernels::MlpNetwork<T>> described() const {
    std::vector<kernels::MlpNetwork<T>> all;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto& [w1, b1, w2, b2, w3, b3] = networks[i];
      all.push_back({.x = x[i].data<T>(),
                     .w1 = w1.data<T>(),
                     .b1 = b1.data<T>(),
                     .w2 = w2.data<T>(),
                     .b2 = b2.data<T>(),
                     .w3 = w3.data<T>(),
                     .b3 = b3.data<T>()});
    }
    return all;
  }
};

void backward(const Kept& kept, Grads& g) {
  with_kernels(kept.x[0], [&]<class T>(auto& queue) {
    std::vector<kernels::MlpGradients<T>> gradients;
    for (const auto& [w1, b1, w2, b2, w3, b3] : kept.networks) {
      gradients.push_back({g.into<T>(w1), g.into<T>(b1), g.into<T>(w2), g.into<T>(b2),
                           g.into<T>(w3), g.into<T>(b3)});
    }
    const auto networks = kept.described<T>();
    run(queue, kernels::MlpBackward<T>{.dims = kept.dims,
                                       .networks = networks,
                                       .kept = kept.hidden.data<T>(),
                                       .dy = g.output<T>(),
                                       .gradients = gradients});
  });
}

// As kernels::mlps_at_once says; none where somebody looks at every operation.
std::size_t fused(std::span<const Var> x, const kernels::MlpDims& dims) {
  if (x[0].tape().watched() || layers_apart()) return 0;
  std::size_t count = 0;
  with_kernels(x[0], [&]<class T>(auto& queue) {
    std::vector<kernels::MlpNetwork<T>> networks;
    for (const Var& one : x) {
      if (one.requires_grad()) break;
      networks.push_back({.x = one.data<T>()});
    }
    count =
        kernels::mlps_at_once(queue, kernels::MlpForward<T>{.dims = dims, .networks = networks});
  });
  return count;
}

}  // namespace

std::size_t mlps_at_once(std::span<const Var> x, std::int64_t in, std::int64_t width) {
  if (x.empty() || in == 0) return x.size();
  return std::max<std::size_t>(fused(x, {.rows = x[0].size() / in, .in = in, .width = width}), 1);
}

Var mlp(std::span<const Var> x, std::span<const MlpParameters> networks) {
  Kept kept{dims_of(x, networks), {x.begin(), x.end()}, {networks.begin(), networks.end()}, {}};
  const std::vector<Var> inputs = kept.inputs();
  bool different = false;
  on(x[0].device(), x[0].dtype(),
     [&]<class T>(auto&) { different = all_different<T>(std::span(inputs).subspan(x.size())); });
  if (!different || fused(x, kept.dims) < x.size()) {
    SC_CHECK(x.size() == 1, "mlp: {} networks are more than are computed at once here", x.size());
    const auto& [w1, b1, w2, b2, w3, b3] = networks[0];
    const Var h1 = linear(x[0], w1, b1, Activation::kRelu);
    const Var h2 = linear(h1, w2, b2, Activation::kRelu);
    return reshape(linear(h2, w3, b3), {1, kept.dims.rows});
  }
  Tape& tape = x[0].tape();
  Var y = tape.make({static_cast<std::int64_t>(x.size()), kept.dims.rows});
  const bool records = tape.records(inputs);
  with_kernels(x[0], [&]<class T>(auto& queue) {
    if (records) kept.hidden = tape.make({kernels::mlp_kept(kept.dims, x.size())}).value();
    const auto described = kept.described<T>();
    run(queue, kernels::MlpForward<T>{.dims = kept.dims,
                                      .networks = described,
                                      .y = y.data<T>(),
                                      .kept = kept.hidden ? kept.hidden.data<T>() : nullptr});
  });
  tape.record(y, inputs, [kept](Grads& g) { backward(kept, g); });
  return y;
}

}  // namespace sidechannel
