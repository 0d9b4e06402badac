#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/tape.h"

namespace sidechannel {

// The first value that is NaN or infinite, in words: "nan at [3, 0, 1]". Empty where there is none.
std::string first_not_finite(const HostArray& array);

// Error where a tensor holds such a value: "SOURCE: blocks.0.conv.weight is nan at [3, 0, 1]".
void check_finite(const std::map<std::string, HostArray>& tensors, const std::string& source);

// Carries out `step` on `tape` with a look at everything, and says what of it was first NaN or
// infinite: a parameter of `lists` ("blocks.3.conv.weight is nan at [3, 0, 1]"), what an operation
// gave ("blocks.3.conv gave inf at [0, 5, 2]"), or, from the last parameter to the first, as
// backward() goes, a gradient ("the gradient of blocks.3.conv.weight is ..."). Empty where all was
// finite. Copies everything to the host: for a step that is known to have failed.
std::string first_not_finite(Tape& tape, const std::vector<const ParameterList*>& lists,
                             const std::function<void()>& step);

// Whether tensors are finite, asked on their device: one number comes back for each. Looking may be
// part of a step that repeats itself, finite() waits for it.
class FiniteCheck {
 public:
  FiniteCheck(const Device& device, std::int64_t count)
      : squares_(Tensor::zeros(device, DType::kF64, {count})) {}

  void look(std::int64_t index, const Tensor& x);
  // At several, from `index` on; neighbours of one size at once.
  void look(std::int64_t index, std::span<const Var> all);
  // Of all that were looked at last.
  bool finite() const { return first_not_finite(squares_.to_host()).empty(); }

 private:
  Tensor squares_;  // the sum over each; 0 of what was not looked at
};

}  // namespace sidechannel
