#pragma once

// Rows of layers on a tape: together, and one operation after the other.

#include <cmath>
#include <span>
#include <vector>

#include "engine/ops.h"
#include "tests/harness/conv_norm_act_case.h"

namespace sidechannel::harness {

// x, and the parameters of each layer: w, b and, of a normalized one, gamma and beta. In f64.
inline std::vector<Tensor> inputs_of(const RowCase& c, std::uint64_t seed = 7) {
  Draw draw(seed);
  std::vector<Tensor> all{draw.tensor({c.batch, c.length, c.channels})};
  const double scale = 1 / std::sqrt(static_cast<double>(c.taps * c.channels));
  for (std::int64_t i = 0; i < c.layers; ++i) {
    all.push_back(draw.tensor({c.taps, c.channels, c.channels}, 0, scale));
    all.push_back(draw.tensor({c.channels}));
    if (!c.has_norm(i)) continue;
    all.push_back(draw.tensor({c.channels}, 1, 0.3));
    all.push_back(draw.tensor({c.channels}, 0, 0.3));
  }
  return all;
}

inline std::vector<ConvNormActParameters> layers_of(const RowCase& c, std::span<const Var> inputs,
                                                    std::span<RunningStatistics> running = {}) {
  std::vector<ConvNormActParameters> all;
  for (std::size_t i = 1; i < inputs.size();) {
    all.push_back({inputs[i], inputs[i + 1], {}});
    i += 2;
    const std::size_t layer = all.size() - 1;
    if (!c.has_norm(static_cast<std::int64_t>(layer))) continue;
    all.back().norm = {inputs[i], inputs[i + 1], running.empty() ? nullptr : &running[layer]};
    i += 2;
  }
  return all;
}

inline Var one_by_one(const RowCase& c, std::span<const Var> inputs,
                      std::vector<Var>* hidden = nullptr,
                      std::span<RunningStatistics> running = {}) {
  Var z = inputs[0];
  for (const auto& [w, b, norm] : layers_of(c, inputs, running)) {
    z = conv1d(z, w, b, c.padding);
    NormOptions options = c.options();
    if (norm) options.update = norm->update;
    z = norm ? norm_act(z, norm->gamma, norm->beta, options) : relu(z);
    if (hidden) hidden->push_back(z);
  }
  return z;
}
inline Var together(const RowCase& c, std::span<const Var> inputs,
                    std::vector<Var>* hidden = nullptr, std::span<RunningStatistics> running = {}) {
  return conv_norm_act(inputs[0], layers_of(c, inputs, running), c.padding, c.options(), hidden);
}

// A tape with the inputs of a case as leaves.
struct Pass {
  Tape tape;
  std::vector<Var> in;

  Pass(const Device& device, DType type, const RowCase& c) : tape(device, type) {
    for (const Tensor& input : inputs_of(c)) {
      Tensor copy(device, type, input.shape());
      copy.copy_from(array_of(values_of(input), type, input.shape()));
      in.push_back(tape.leaf(copy));
    }
  }
  // How many operations were recorded.
  std::size_t operations() const { return tape.mark().nodes - in.size(); }
  // All gradients, of a drawn cotangent of y, which comes first.
  std::vector<std::vector<double>> gradients(const Var& y) {
    Tensor cotangent(y.device(), y.dtype(), y.shape());
    cotangent.copy_from(array_of(Draw(5).normals<double>(y.size()), y.dtype(), y.shape()));
    tape.backward(y, cotangent);
    std::vector<std::vector<double>> all{values_of(y.value())};
    for (const Var& one : in) {
      if (one.requires_grad()) all.push_back(values_of(tape.gradient(one)));
    }
    return all;
  }
};

}  // namespace sidechannel::harness
