#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "engine/device_value.h"
#include "engine/parameter.h"
#include "kernels/adam.h"

namespace sidechannel {

using kernels::AdamRule;
using kernels::AdamState;
using kernels::LearningRate;

// Adam (Kingma & Ba 2015), as PyTorch's torch.optim.Adam computes it. Takes over a parameter list:
// values, gradients and moments then lie in flat buffers, and a step is one pass over them. Steps
// are counted on the device, which takes its learning rate from there: a step may be part of one
// that repeats itself.
class Adam {
 public:
  Adam(ParameterList& list, const AdamRule& rule);

  // One update from the gradients that stand in the parameters. When one of them, or `loss` (one
  // number) where it is given, is not finite, or is too large for its square to be, training halts
  // instead: from this step on nothing changes any more, whenever the host comes to look.
  void step(const Tensor& loss = {});

  // Where training stands; these wait for the device.
  AdamState state() const { return state_.get(); }
  std::int64_t steps() const { return state().steps; }
  bool halted() const { return state().halted != 0; }
  // Of the last step, and of the one that halted: the rate that it used, and the Euclidean norm of
  // all its gradients.
  double learning_rate() const { return state().learning_rate; }
  double gradient_norm() const { return state().gradient_norm(); }

  // Where the device keeps whether training has halted, for what must stop with it.
  const std::int64_t* halted_flag() const { return &state_.data()->halted; }

  // Whether all parameters of the list are this one's to move: none was added since.
  bool moves_all_of(const ParameterList& list) const;

  // State for exact resume: PREFIX.m, PREFIX.v (flat) and PREFIX.steps, `least` to `most` of them.
  void save(TensorMap& tensors, const std::string& prefix) const;
  void load(const TensorMap& tensors, const std::string& source, const std::string& prefix,
            std::int64_t least = 0, std::int64_t most = std::numeric_limits<std::int64_t>::max());

 private:
  AdamRule rule_;
  ParameterList::Flat flat_;
  Tensor m_;
  Tensor v_;
  DeviceValue<double> squares_;  // of the gradients of the step that runs
  DeviceValue<AdamState> state_;
};

}  // namespace sidechannel
