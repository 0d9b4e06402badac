// A whole training step (noise, forward, loss, backward, finiteness check, Adam, averages) at the
// demo's and the paper's scale, on all cores. Counters: GFLOP/s of the convolutions, the share of
// all cores' FMA peak that is measured right before, and the memory of the step's arena.

#include <benchmark/benchmark.h>

#include "bench/peak.h"
#include "experiments/training.h"

namespace sidechannel::bench {
namespace {

// Multiply-adds of all convolutions, forward; training takes about three times as many: the input
// gradient (not of the first layer) and the weight gradient.
double step_flops(const experiments::LocalizationSettings& s) {
  const auto positions = static_cast<double>(s.batch * s.length);
  const auto h = static_cast<double>(s.channels);
  const auto k = static_cast<double>(s.kernel_size);
  const double middle = 2 * h * h * k * static_cast<double>(s.depth - 2);
  return positions * (3 * middle + 3 * 2 * h * k + 2 * 2 * h * k);
}

void training_step(benchmark::State& state, const char* preset) {
  const experiments::LocalizationSettings settings =
      experiments::settings_from_preset<experiments::LocalizationSettings>(preset);
  const Device device = Device::cpu();
  Localizer network(device, DType::kF32, settings.network(), 0);
  experiments::LocalizationStep step(network, settings.training_rate(), settings.batch,
                                     settings.length, 0);
  const int threads = device.cpu_queue().threads();
  const double peak = fma_peak(threads);
  step();
  for (auto _ : state) step();
  const double flops = step_flops(settings);
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["peak"] = peak;
  state.counters["share"] =
      benchmark::Counter(flops * 1e-9 / peak, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["threads"] = threads;
  state.counters["arena_MB"] = static_cast<double>(step.arena_bytes()) / 1e6;
}

BENCHMARK_CAPTURE(training_step, demo, "demo")->UseRealTime()->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(training_step, paper, "paper")->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace sidechannel::bench

BENCHMARK_MAIN();
