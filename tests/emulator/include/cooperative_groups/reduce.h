#pragma once

#include "../cooperative_groups.h"

namespace cooperative_groups {

template <class T>
struct plus {
  T operator()(T a, T b) const { return a + b; }
};
template <unsigned kSize, class T, class Operation>
T reduce(const thread_block_tile<kSize>& tile, T value, Operation operation,
         Site site = Site::here()) {
  for (unsigned distance = kSize / 2; distance > 0; distance /= 2) {
    value = operation(value, tile.shfl_xor(value, distance, site));
  }
  return value;
}

}  // namespace cooperative_groups
