#pragma once

// What the tests of localizers share.

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "models/localizer.h"
#include "tests/harness/op_check.h"

namespace sidechannel::harness {

// Away from 1 and 0, where gamma and beta begin.
inline void randomize_norms(Localizer& net, Draw& draw) {
  for (Parameter& parameter : net.parameters().parameters()) {
    if (parameter.name.find(".norm.") == std::string::npos) continue;
    const double mean = parameter.name.ends_with("weight") ? 1 : 0;
    const auto values = draw.normals<double>(parameter.value.size(), mean, 0.5);
    parameter.value.copy_from(HostArray::from<double>(values, parameter.value.shape()));
  }
}

// The shapes of a network's tensors in a file, by name.
inline std::map<std::string, std::string> shapes_of(const Localizer& net) {
  std::map<std::string, std::string> shapes;
  for (const auto& [name, array] : saved(net.parameters())) shapes[name] = array.shape.str();
  return shapes;
}

// The gradients of all parameters, and that of x.
inline void check_network_gradients(Localizer& net, const Tensor& x, std::uint64_t seed,
                                    Statistics statistics, const std::string& what) {
  expect_gradients([&](Tape& tape) { return net(tape.constant(x), statistics); }, net.parameters(),
                   {.seed = seed}, what);
  expect_gradients([&](Tape&, std::span<const Var> in) { return net(in[0], statistics); },
                   std::vector{x}, {.seed = seed}, what);
}

}  // namespace sidechannel::harness
