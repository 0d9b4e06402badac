#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/modules.h"
#include "engine/receptive_field.h"
#include "models/norm_kind.h"

namespace sidechannel {

// A network of sequences, for those who ask the same of every one: what it answers, which positions
// it hears through its layers, and what its normalizations do to that.
class Network {
 public:
  Network() = default;
  Network(Network&&) noexcept = default;
  Network& operator=(Network&&) noexcept = default;
  virtual ~Network() = default;

  // x [N, L, channels_in()] -> [N, L', C']. `hidden`, where given, receives the activations of its
  // layers; `hook`, where given, its normalizations.
  virtual Var operator()(const Var& x, Statistics statistics = Statistics::kTraining,
                         std::vector<Var>* hidden = nullptr, NormHook* hook = nullptr) const = 0;

  // Of its output, for an input of so many positions; Error where it takes none such.
  virtual ReceptiveField receptive_field(std::int64_t length) const = 0;

  // A normalization: the name of its parameters, what it is called, and its sets.
  struct Norm {
    std::string name;
    NormKind kind;
    NormOptions options;
  };
  // In the order in which they run.
  virtual std::vector<Norm> norms() const = 0;

  virtual std::int64_t channels_in() const = 0;
  // Lengths are multiples of it, and shifts by it pass through.
  virtual std::int64_t stride() const { return 1; }
  // The least length of an input.
  virtual std::int64_t shortest() const { return stride(); }

  // How far to each side it hears through its layers, where no end cuts that off.
  struct Reach {
    std::int64_t left, right;
    std::int64_t further() const { return std::max(left, right); }
  };
  Reach reach() const;
  // What it is, for people: "localizer of depth 8, instance norm".
  virtual std::string words() const = 0;

  virtual const ParameterList& parameters() const = 0;
  ParameterList& parameters() {
    return const_cast<ParameterList&>(static_cast<const Network*>(this)->parameters());
  }
};

}  // namespace sidechannel
