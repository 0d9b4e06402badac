#include "kernels/conv_norm_act.h"

#include "engine/ops.h"
#include "engine/ops/dims.h"
#include "engine/ops/together.h"

namespace sidechannel {
namespace {

// A layer without normalization keeps its activation there, and sizes.
kernels::NormDims norm_of(const char* name, const Shape& y, const ConvNormActParameters& p,
                          NormOptions options) {
  if (p.norm) {
    options.update = p.norm->update;
    return batch_norm_dims(name, y, p.norm->gamma, p.norm->beta, options);
  }
  return {.batch = y[0],
          .length = y[1],
          .channels = y[2],
          .channels_per_set = 1,
          .samples_per_set = 1,
          .epsilon = options.epsilon,
          .activation = options.activation};
}

// The layers, and what a forward pass leaves for the way back.
struct Kept {
  Var x;
  std::vector<ConvNormActParameters> parameters;
  std::vector<kernels::Conv1dDims> conv;
  std::vector<kernels::NormDims> norm;
  std::vector<Tensor> y, statistics;

  Kept(const Var& x_, std::span<const ConvNormActParameters> layers, std::int64_t padding,
       NormOptions options)
      : x(x_), parameters(layers.begin(), layers.end()) {
    constexpr const char* kName = "conv_norm_act";
    SC_CHECK(!layers.empty(), "{}: expected at least one layer", kName);
    Shape shape = x.shape();
    for (const ConvNormActParameters& p : layers) {
      conv.push_back(conv1d_dims(kName, shape, p.w, p.b, padding));
      shape = {shape[0], conv.back().length_out(), conv.back().channels_out};
      norm.push_back(norm_of(kName, shape, p, options));
    }
  }

  std::vector<Var> inputs() const {
    std::vector<Var> all{x};
    for (const ConvNormActParameters& p : parameters) {
      all.insert(all.end(), {p.w, p.b});
      if (p.norm) all.insert(all.end(), {p.norm->gamma, p.norm->beta});
    }
    return all;
  }
  Shape shape(std::size_t i) const {
    return {conv[i].batch, conv[i].length_out(), conv[i].channels_out};
  }

  // The layers of a call.
  template <class T>
  std::vector<kernels::ConvNormActLayer<T>> layers() const {
    std::vector<kernels::ConvNormActLayer<T>> all;
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const ConvNormActParameters& p = parameters[i];
      all.push_back({.conv = conv[i], .norm = norm[i], .w = p.w.data<T>(), .b = p.b.data<T>()});
      if (p.norm) {
        all.back().gamma = p.norm->gamma.data<T>();
        all.back().beta = p.norm->beta.data<T>();
      }
      if (i < y.size()) all.back().y = y[i].data<T>();
      if (i < statistics.size()) all.back().statistics = parts_of<T>(statistics[i]);
    }
    return all;
  }
};

// Whether the device computes the layers together. Not where one tensor is several of their
// parameters; nor where somebody looks at every operation, or at layers on whose results gradients
// depend; nor where these do not pass through the statistics; nor where a bias has a gradient and
// its weights have none: alone it is summed in another order.
bool together(const Kept& kept, const NormOptions& options, bool records, bool hidden) {
  if (kept.x.tape().watched() || (records && hidden) || layers_apart()) return false;
  if (!options.through_mean || !options.through_variance) return false;
  for (const ConvNormActParameters& p : kept.parameters) {
    if (records && p.b.requires_grad() && !p.w.requires_grad()) return false;
  }
  return on(kept.x.device(), kept.x.dtype(), [&]<class T>(auto& queue) {
    const auto layers = kept.layers<T>();
    const kernels::ConvNormActForward<T> call{kept.x.data<T>(), layers};
    return kernels::computes(queue, call, records) && all_different<T>(kept.inputs());
  });
}

// One operation after the other.
Var one_by_one(const Kept& kept, std::int64_t padding, NormOptions options,
               std::vector<Var>* hidden) {
  Var z = kept.x;
  for (const auto& [w, b, norm] : kept.parameters) {
    z = conv1d(z, w, b, padding);
    if (norm) options.update = norm->update;
    z = norm ? norm_act(z, norm->gamma, norm->beta, options) : activate(z, options.activation);
    if (hidden) hidden->push_back(z);
  }
  return z;
}

void backward(const Kept& kept, Grads& g) {
  on(kept.x.device(), kept.x.dtype(), [&]<class T>(auto& queue) {
    const auto layers = kept.layers<T>();
    std::vector<kernels::ConvNormActGradients<T>> gradients;
    for (const ConvNormActParameters& p : kept.parameters) {
      kernels::ConvNormActGradients<T>& out = gradients.emplace_back();
      out.dw = g.into<T>(p.w);
      out.db = g.into<T>(p.b);
      if (!p.norm) continue;
      out.dgamma = g.into<T>(p.norm->gamma);
      out.dbeta = g.into<T>(p.norm->beta);
    }
    const std::int64_t size = kernels::conv_norm_act_workspace(
        queue, kernels::View<kernels::ConvNormActLayer<T>>(layers));
    const Tensor workspace = kept.x.tape().make({size}).value();
    run(queue, kernels::ConvNormActBackward<T>{.x = kept.x.data<T>(),
                                               .layers = layers,
                                               .dz = g.output<T>(),
                                               .dx = g.into<T>(kept.x),
                                               .gradients = gradients,
                                               .workspace = workspace.data<T>()});
  });
}

}  // namespace

Var conv_norm_act(const Var& x, std::span<const ConvNormActParameters> layers, std::int64_t padding,
                  const NormOptions& options, std::vector<Var>* hidden) {
  Kept kept(x, layers, padding, options);
  Tape& tape = x.tape();
  const std::vector<Var> inputs = kept.inputs();
  const bool records = tape.records(inputs);
  if (!together(kept, options, records, hidden != nullptr)) {
    return one_by_one(kept, padding, options, hidden);
  }
  std::vector<Var> z(layers.size());  // of the last layer, and of those that are asked for
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const kernels::NormDims& dims = kept.norm[i];
    if (records) kept.y.push_back(tape.make(kept.shape(i)).value());
    kept.statistics.push_back(tape.make({3, dims.groups(), dims.channels}).value());
    if (hidden || i + 1 == layers.size()) z[i] = tape.make(kept.shape(i));
  }
  on(x.device(), x.dtype(), [&]<class T>(auto& queue) {
    auto described = kept.layers<T>();
    for (std::size_t i = 0; i < layers.size(); ++i) {
      if (hidden || i + 1 == layers.size()) described[i].z = z[i].template data<T>();
    }
    run(queue, kernels::ConvNormActForward<T>{.x = x.data<T>(), .layers = described});
  });
  std::vector<RunningUpdate> updates;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].norm)
      updates.push_back({layers[i].norm->update, kept.norm[i], kept.statistics[i]});
  }
  update_running(updates);
  if (hidden) hidden->insert(hidden->end(), z.begin(), z.end());
  tape.record(z.back(), inputs, [kept](Grads& g) { backward(kept, g); });
  return z.back();
}

}  // namespace sidechannel
