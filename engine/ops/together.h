#pragma once

// What operations ask that compute several layers at once, where a device can, before they do.

#include <algorithm>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "engine/tape.h"

namespace sidechannel {

// SIDECHANNEL_LAYERS=apart: for measurements of what it brings.
inline bool layers_apart() {
  const char* const value = std::getenv("SIDECHANNEL_LAYERS");
  return value != nullptr && std::string(value) == "apart";
}

// Whether no two of them lie in one place: a gradient would be written to by several layers at
// once.
template <class T>
bool all_different(std::span<const Var> inputs) {
  std::vector<const void*> memory;
  for (const Var& input : inputs) {
    if (input.size() > 0) memory.push_back(input.data<T>());
  }
  std::ranges::sort(memory);
  return std::ranges::adjacent_find(memory) == memory.end();
}

}  // namespace sidechannel
