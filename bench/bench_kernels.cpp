// Every kernel on one core of the CPU, beside Eigen on the same core.
//
// What is timed are blocks of calls, on data that the caches may hold; the time shown is the
// median. Products also say their share of the peak of fused multiply-adds, which is measured right
// before.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>

#include "bench/peak.h"
#include "bench/report.h"
#include "experiments/run/progress.h"

namespace sidechannel::bench {
namespace {

Samples measure(const std::function<void()>& launch) {
  constexpr double kBlock = 10e-3;  // seconds
  constexpr int kBlocks = 12;
  const auto seconds_of = [&](int calls) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < calls; ++i) {
      launch();
      benchmark::ClobberMemory();
    }
    return experiments::seconds_since(start) / calls;
  };
  seconds_of(2);  // finds its scratch memory
  const int calls = std::clamp(static_cast<int>(kBlock / seconds_of(1)), 1, 100'000);
  seconds_of(calls);
  return sample(kBlocks, [&] { return seconds_of(calls); });
}

void add_all() {
  const Device device = Device::cpu(1);
  for (const Case<CpuQueue>& c : Cases<CpuQueue>().list()) {
    add_benchmark(c.name, [=](benchmark::State& state) {
      Floor floor{0, "memory"};
      if (c.cost.products) {
        const double peak = fma_peak(1);
        floor = {c.cost.flops * 1e-9 / peak, "FMA"};
        state.counters["peak"] = peak;
      }
      run_case(state, c, Memory(device, device.cpu_queue()), floor, measure);
    });
  }
}

}  // namespace
}  // namespace sidechannel::bench

int main(int argc, char** argv) {
  using namespace sidechannel::bench;
  return run_benchmarks("bench_kernels", argc, argv, add_all);
}
