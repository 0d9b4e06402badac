#pragma once

#include <cstdint>

#include "engine/dtype.h"
#include "experiments/run/memory.h"

namespace sidechannel::experiments {

// How much is measured, and of what.
struct LeakSize {
  DType dtype = DType::kF64;
  std::int64_t inputs = 1;  // each [samples, length, channels]
  std::int64_t samples = 1;
  std::int64_t length = 1;
  std::int64_t channels = 1;
  std::int64_t rows = 1;      // of the Jacobian: output positions that are asked, times channels
  std::int64_t norms = 0;     // measured one after the other
  std::int64_t longest = 0;   // what the network answers beside that: the input and zeros behind it
  bool given_model = false;   // a file's; else one with its initial weights
  bool given_inputs = false;  // likewise; else noise
};

// Of measure_leak, measure_tiles and measure_padding, one after the other.
MemoryNeed memory_of(const LocalizerConfig& network, const LeakSize& size);
MemoryNeed memory_of(const TemporalUnetConfig& network, const LeakSize& size);
MemoryNeed memory_of(const Network& network, const LeakSize& size);

}  // namespace sidechannel::experiments
