#include "experiments/overlap/memory.h"

namespace sidechannel::experiments {

MemoryNeed memory_of(const OverlapSettings& s) {
  const double h = d(s.channels);
  const double k = d(s.kernel_size);
  const double depth = d(s.depth);
  // Valid convolutions: each layer's sequences are k - 1 shorter than those before it.
  const double length = d(s.length());
  const double hidden = (depth - 1) * length - (k - 1) * (depth - 1) * depth / 2;
  const double floats =
      2 * d(s.batch) * (2 * length + 2 * h * hidden + 3 * h * length + 3 * h * (depth - 2));
  return {
      {trained_parameters("the networks' weights in training",
                          "--channels, --depth or --kernel-size", stack_parameters(depth, h, k, 2)),
       arena_memory("the activations of a training step",
                    "--batch, --channels, --depth or --kernel-size", floats)}};
}

}  // namespace sidechannel::experiments
