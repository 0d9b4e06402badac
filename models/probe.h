#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "engine/modules.h"

namespace sidechannel {

// A probe g: R^h -> R of the paper's Section 2.1 and Appendix E: a multi-layer perceptron with two
// hidden layers and ReLU, applied to the activation of every position on its own.
// Parameters: NAME.0.*, NAME.1.*, NAME.2.*
class Probe {
 public:
  Probe(ParameterList& list, const std::string& name, std::int64_t channels, std::int64_t width)
      : width_(width),
        layers_{Linear(list, name + ".0", channels, width), Linear(list, name + ".1", width, width),
                Linear(list, name + ".2", width, 1)} {}

  // [N, L, h] -> [N, L, 1]
  Var operator()(const Var& z) const {
    return reshape(answers({this, 1}, {&z, 1}), {z.shape()[0], z.shape()[1], 1});
  }

  // Of probes of one size, each on activations of its own [N, L, h]: [count, N L], the answers of
  // the first ones, as many as the device computes at once.
  static Var answers(std::span<const Probe> probes, std::span<const Var> z) {
    const Shape shape = z[0].shape();
    Tape& tape = z[0].tape();
    std::vector<Var> rows;
    std::vector<MlpParameters> networks;
    for (std::size_t i = 0; i < mlps_at_once(z, shape[2], probes[0].width_); ++i) {
      const auto& [first, second, last] = probes[i].layers_;
      rows.push_back(reshape(z[i], {shape[0] * shape[1], shape[2]}));
      networks.push_back({first.weight(tape), first.bias(tape), second.weight(tape),
                          second.bias(tape), last.weight(tape), last.bias(tape)});
    }
    return mlp(rows, networks);
  }

 private:
  std::int64_t width_;
  std::array<Linear, 3> layers_;
};

}  // namespace sidechannel
