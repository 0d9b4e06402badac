#pragma once

#include <string>

#include "engine/modules.h"

namespace sidechannel {

// A probe g: R^h -> R of the paper's Section 2.1 and Appendix E: a multi-layer perceptron with two
// hidden layers and ReLU, applied to the activation of every position on its own.
// Parameters: NAME.0.*, NAME.1.*, NAME.2.*
class Probe {
 public:
  Probe(ParameterList& list, const std::string& name, std::int64_t channels, std::int64_t width)
      : first_(list, name + ".0", channels, width),
        second_(list, name + ".1", width, width),
        last_(list, name + ".2", width, 1) {}

  // [N, L, h] -> [N, L, 1]
  Var operator()(const Var& z) const {
    const Shape& shape = z.shape();
    const Var rows = reshape(z, {shape[0] * shape[1], shape[2]});
    return reshape(last_(second_(first_(rows, Activation::kRelu), Activation::kRelu)),
                   {shape[0], shape[1], 1});
  }

 private:
  Linear first_;
  Linear second_;
  Linear last_;
};

}  // namespace sidechannel
