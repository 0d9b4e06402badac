#pragma once

#include <cstdint>
#include <string>

#include "engine/parameter.h"

namespace sidechannel {

// Exponential moving average of a model's parameters over the steps of its training, for
// evaluation: average = decay * average + (1 - decay) * value. Constants (running statistics) are
// not averaged.
class Ema {
 public:
  // Begins as a copy of the values as they stand; `decay` is 0 to 1. The list is flattened, if it
  // is not yet: an optimizer may come before or after.
  Ema(ParameterList& list, double decay);

  // One step. Nothing once the training that `halted` belongs to has halted (Adam::halted_flag),
  // where it is given. May be part of a step that repeats itself.
  void update(const std::int64_t* halted = nullptr);
  // Begins anew, as a copy of the values as they stand.
  void reset() { average_.copy_from(values_); }

  const Tensor& average() const { return average_; }  // flat

  // The averages stand in the parameters' place for as long as this lives; then the parameters are
  // back. Neither is updated meanwhile.
  class InPlace {
   public:
    explicit InPlace(const Ema& ema);
    ~InPlace();
    InPlace(const InPlace&) = delete;
    InPlace& operator=(const InPlace&) = delete;

   private:
    Tensor values_;
    Tensor trained_;  // what stood there
  };

  // State for exact resume: PREFIX.average.
  void save(TensorMap& tensors, const std::string& prefix) const;
  void load(const TensorMap& tensors, const std::string& source, const std::string& prefix);

 private:
  double decay_;
  Tensor values_;  // the parameters
  Tensor average_;
};

}  // namespace sidechannel
