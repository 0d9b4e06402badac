// A whole training step: noise, forward, loss, backward, finiteness check, Adam, averages.
//
//   bench_step [--device cpu|cuda[:N]] [--benchmark_...]
//
// On the CPU, on all cores, in fp32. On a GPU in both precisions, each with all launches of a step
// made by the host (eager) and replayed as one recorded step; the time is the median over runs of
// many steps.
//
// Counters: GFLOP/s of the convolutions, and their share of the peak of the units that compute
// them, which is measured right before; the memory of the step's arena. On a GPU also what the host
// does in one step (launches, replays, allocations, waits) and the most memory that was held.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string>
#include <vector>

#include "bench/peak.h"
#include "bench/samples.h"
#include "experiments/training.h"

// The peaks of a GPU; an emulated one has none.
#if SIDECHANNEL_HAS_CUDA && !defined(SIDECHANNEL_CUDA_EMULATED)
#define SIDECHANNEL_BENCH_GPU 1
#include "bench/peak_cuda.h"
#else
#define SIDECHANNEL_BENCH_GPU 0
#endif

namespace sidechannel::bench {
namespace {

struct Step {
  const char* name;
  const char* preset;
  const char* norm;
};

constexpr Step kSteps[] = {
    {"demo", "demo", "instance"},
    {"paper", "paper", "instance"},
    {"paper-batch-norm", "paper", "batch"},  // in groups of four, as Figure 4 trains
};

// Multiply-adds of all convolutions, forward; training takes about three times as many: the input
// gradient (not of the first layer) and the weight gradient.
double step_flops(const experiments::Settings& s) {
  const auto positions = static_cast<double>(s.batch * s.length);
  const auto h = static_cast<double>(s.channels);
  const auto k = static_cast<double>(s.kernel_size);
  const double middle = 2 * h * h * k * static_cast<double>(s.depth - 2);
  return positions * (3 * middle + 3 * 2 * h * k + 2 * 2 * h * k);
}

struct Training {
  Training(const Device& device, const Step& what)
      : settings(experiments::settings_from_preset(what.preset, what.norm)),
        network(device, DType::kF32, settings.network(), 0),
        step(network, settings.training_rate(), settings.batch, settings.length, 0) {}
  experiments::Settings settings;
  Localizer network;
  experiments::TrainingStep step;
};

void cpu_step(benchmark::State& state, const Step& what) {
  const Device device = Device::cpu();
  Training training(device, what);
  const int threads = device.cpu_queue().threads();
  const double peak = fma_peak(threads);
  training.step();
  for (auto _ : state) training.step();
  const double flops = step_flops(training.settings);
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["peak"] = peak;
  state.counters["share"] =
      benchmark::Counter(flops * 1e-9 / peak, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["threads"] = threads;
  state.counters["arena_MB"] = static_cast<double>(training.step.arena_bytes()) * 1e-6;
}

#if SIDECHANNEL_HAS_CUDA

// FLOP/s; 0 where nothing can be measured.
double gpu_peak([[maybe_unused]] const std::string& name, [[maybe_unused]] Precision precision) {
#if SIDECHANNEL_BENCH_GPU
  // On a queue of its own: the buffers that it copies are none of a step's memory.
  static const CudaPeaks peaks = cuda_peaks(Device::from_name(name).cuda_queue());
  return precision == Precision::kTf32 ? peaks.tf32 : peaks.ffma;
#else
  return 0;
#endif
}

// Seconds of one step, of `steps` that follow each other.
double seconds_of(const Device& device, experiments::TrainingStep& step, int steps) {
  using Clock = std::chrono::steady_clock;
  device.synchronize();
  const Clock::time_point start = Clock::now();
  for (int i = 0; i < steps; ++i) step();
  device.synchronize();
  return std::chrono::duration<double>(Clock::now() - start).count() / steps;
}

void gpu_step(benchmark::State& state, const Step& what, const std::string& name,
              Precision precision, bool replayed) {
  setenv("SIDECHANNEL_REPLAY", replayed ? "on" : "off", 1);
  const Device device = Device::from_name(name, 0, precision);
  const kernels::CudaQueue& queue = device.cuda_queue();
  if (precision == Precision::kTf32 && queue.info().compute_capability < 80) {
    state.SkipWithError("no TF32 on this GPU");
    return;
  }
  const double peak = gpu_peak(name, precision);
  Training training(device, what);
  seconds_of(device, training.step, 5);  // recorded in the third at the latest

  const kernels::CudaQueue::Counters before = queue.counters();
  constexpr int kCounted = 10;
  for (int i = 0; i < kCounted; ++i) training.step();
  const kernels::CudaQueue::Counters after = queue.counters();
  const auto each = [&](std::int64_t kernels::CudaQueue::Counters::*count) {
    return static_cast<double>(after.*count - before.*count) / kCounted;
  };

  constexpr double kRun = 0.03;  // seconds
  const double once = seconds_of(device, training.step, 10);
  const int steps = queue.info().emulated ? 1 : std::clamp(static_cast<int>(kRun / once), 3, 1000);
  const Samples samples = sample(queue.info().emulated ? 3 : 20,
                                 [&] { return seconds_of(device, training.step, steps); });
  for (auto _ : state) state.SetIterationTime(samples.median());

  const double rate = step_flops(training.settings) / samples.median();
  state.counters["GFLOP/s"] = rate * 1e-9;
  if (peak > 0) {
    state.counters["peak"] = peak * 1e-9;
    state.counters["share"] = rate / peak;
  }
  state.counters["min_us"] = samples.min() * 1e6;
  state.counters["spread"] = samples.spread();
  state.counters["launches"] = each(&kernels::CudaQueue::Counters::launches);
  state.counters["graph_launches"] = each(&kernels::CudaQueue::Counters::graph_launches);
  state.counters["allocations"] = each(&kernels::CudaQueue::Counters::allocations);
  state.counters["synchronizations"] = each(&kernels::CudaQueue::Counters::synchronizations);
  state.counters["arena_MB"] = static_cast<double>(training.step.arena_bytes()) * 1e-6;
  state.counters["peak_memory_MB"] = static_cast<double>(queue.memory_peak()) * 1e-6;
  // What it was, whatever was asked for.
  state.SetLabel(after.graph_launches > before.graph_launches ? "replayed" : "eager");
}

void add_gpu_steps(const std::string& device) {
  for (const Step& what : kSteps) {
    for (const Precision precision : {Precision::kTf32, Precision::kFp32}) {
      for (const bool replayed : {true, false}) {
        const std::string name = fmt::format("training_step/{}/{}/{}", what.name,
                                             name_of(precision), replayed ? "replayed" : "eager");
        const auto run = [=, &what](benchmark::State& state) {
          skip_on_error(state, [&] { gpu_step(state, what, device, precision, replayed); });
        };
        benchmark::RegisterBenchmark(name.c_str(), run)
            ->UseManualTime()
            ->Iterations(1)
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
}

#else

void add_gpu_steps(const std::string&) {}  // never reached: no device is a GPU

#endif

void add_cpu_steps() {
  for (const Step& what : kSteps) {
    benchmark::RegisterBenchmark(fmt::format("training_step/{}", what.name).c_str(),
                                 [&what](benchmark::State& state) { cpu_step(state, what); })
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
  }
}

// Takes --device out of the arguments.
std::string take_device(int& argc, char** argv) {
  std::string device = "cpu";
  std::vector<char*> rest;
  for (int i = 0; i < argc; ++i) {
    if (std::string(argv[i]) == "--device" && i + 1 < argc) {
      device = argv[++i];
    } else {
      rest.push_back(argv[i]);
    }
  }
  std::copy(rest.begin(), rest.end(), argv);
  argc = static_cast<int>(rest.size());
  return device;
}

int main_of(int argc, char** argv) {
  const std::string name = take_device(argc, argv);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  const Device device = Device::from_name(name);
  if (device.is_cuda()) {
    benchmark::AddCustomContext("gpu", device.description());
    add_gpu_steps(device.name());
  } else {
    add_cpu_steps();
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace sidechannel::bench

int main(int argc, char** argv) {
  try {
    return sidechannel::bench::main_of(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_step: %s\n", error.what());
    return 1;
  }
}
