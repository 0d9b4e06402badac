#pragma once

// How a case is run and what is said of it, on either device.

#include <benchmark/benchmark.h>

#include <string>
#include <type_traits>

#include "bench/cases.h"
#include "bench/program.h"
#include "bench/samples.h"

namespace sidechannel::bench {

// The least time that a case could take, and what bounds it; 0 where that is unknown.
struct Floor {
  double seconds = 0;
  std::string limit;
};

inline constexpr const char* kNoKernel = "no kernel computes this here";

// measure(launch) returns Samples. The time shown is their median; `share` is the floor's share of
// it. The library's counterpart is measured right after, in the same way: `library_us`, and
// `over_library`, how many times as fast ours is.
template <class Queue, class Measure>
void run_case(benchmark::State& state, const Case<Queue>& c, Memory<Queue> memory,
              const Floor& floor, const Measure& measure) {
  const Timed ours = c.ours(memory, 0);
  if (!ours.launch) return state.SkipWithError(kNoKernel);
  const Samples samples = measure(ours.launch);
  const double seconds = samples.median();
  for (auto _ : state) state.SetIterationTime(seconds);

  constexpr bool kGpu = std::is_same_v<Queue, CudaQueue>;
  state.counters["min_us"] = samples.min() * 1e6;
  state.counters["spread"] = samples.spread();
  state.counters["GB/s"] = c.cost.bytes() / seconds * 1e-9;
  if (c.cost.flops > 0) {
    state.counters[kGpu ? "TFLOP/s" : "GFLOP/s"] = c.cost.flops / seconds * (kGpu ? 1e-12 : 1e-9);
  }
  if (floor.seconds > 0) {
    state.counters["floor_us"] = floor.seconds * 1e6;
    state.counters["share"] = floor.seconds / seconds;
  }
  std::string label = floor.limit;
  if (!ours.by.empty()) label += ", by " + ours.by;
  if (c.library) {
    const Timed library = c.library(memory);
    const double theirs = measure(library.launch).median();
    state.counters["library_us"] = theirs * 1e6;
    state.counters["over_library"] = theirs / seconds;
    label += ", beside " + library.by;
  }
  state.SetLabel(label);
}

}  // namespace sidechannel::bench
