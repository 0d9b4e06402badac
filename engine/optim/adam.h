#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "engine/parameter.h"

namespace sidechannel {

struct AdamOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
};

// Adam (Kingma & Ba 2015), as PyTorch's torch.optim.Adam computes it. Takes over a parameter list:
// values, gradients and moments then lie in flat buffers, and a step is one pass over them.
class Adam {
 public:
  explicit Adam(ParameterList& list, AdamOptions options = {});

  // One update from the gradients that stand in the parameters.
  void step(double learning_rate);
  std::int64_t steps() const { return steps_; }

  // The Euclidean norm of all gradients; not finite when any of them is not.
  double gradient_norm() const;

  // State for exact resume: PREFIX.m, PREFIX.v (flat) and PREFIX.steps.
  void save(std::map<std::string, HostArray>& tensors, const std::string& prefix) const;
  void load(const std::map<std::string, HostArray>& tensors, const std::string& source,
            const std::string& prefix);

 private:
  AdamOptions options_;
  ParameterList::Flat flat_;
  Tensor m_;
  Tensor v_;
  std::int64_t steps_ = 0;
};

}  // namespace sidechannel
