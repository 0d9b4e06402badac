#pragma once

#include <cstdint>
#include <string>

#include "engine/tape.h"

namespace sidechannel::experiments {

// What a network hears: fresh noise in every step (Problem 2.1), or 1 everywhere and always, which
// is Section 3.2's uninformative input.
enum class Input { kNoise, kConstant };

// "noise" or "constant"; UsageError for anything else.
Input input_from(const std::string& name);

// Batches of inputs. Drawing may be part of a step that repeats itself.
class InputSource {
 public:
  // Of at most `batch` sequences; noise comes from `stream`.
  InputSource(const Device& device, Input input, std::int64_t batch, std::int64_t length,
              Stream stream);

  // The sequences where `random` stands, [samples, length, 1].
  Var operator()(Tape& tape, const Random& random, std::int64_t samples) const;

 private:
  std::int64_t length_;
  Stream stream_;
  Tensor constant_;  // [batch * length], where it is no noise
};

}  // namespace sidechannel::experiments
