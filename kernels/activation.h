#pragma once

namespace sidechannel::kernels {

// What a layer ends with, element by element.
enum class Activation : unsigned char {
  kNone,
  kRelu,  // max(x, 0)
};

}  // namespace sidechannel::kernels
