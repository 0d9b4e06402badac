#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/queue.h"

namespace sidechannel::kernels {

// The sum over i < size of term(i), in double: blocks of fixed size are summed by any thread, their
// sums in order by one, so that the result does not depend on the number of threads.
template <class Term>
double blocked_sum(CpuQueue& queue, std::int64_t size, const Term& term) {
  constexpr std::int64_t kBlock = 4096;
  const std::int64_t blocks = (size + kBlock - 1) / kBlock;
  auto* sums =
      static_cast<double*>(queue.scratch(static_cast<std::size_t>(blocks) * sizeof(double)));
  queue.parallel_for(blocks, 2, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t last = std::min(size, (block + 1) * kBlock);
      double lanes[8] = {};  // independent sums, so that additions need not wait for each other
      std::int64_t i = block * kBlock;
      for (; i + 8 <= last; i += 8) {
        for (int j = 0; j < 8; ++j) lanes[j] += term(i + j);
      }
      for (; i < last; ++i) lanes[0] += term(i);
      sums[block] = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) +
                    ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
    }
  });
  double total = 0;
  for (std::int64_t block = 0; block < blocks; ++block) total += sums[block];
  return total;
}

}  // namespace sidechannel::kernels
