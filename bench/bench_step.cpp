// A whole training step: noise, forward, loss, backward, finiteness check, Adam, averages.
//
//   bench_step [--device cpu|cuda[:N]] [--benchmark_...]
//   bench_step --workloads    prints their settings, which bench/pytorch measures the same with
//
// On the CPU, on all cores, in fp32. On a GPU in both precisions, each with all launches of a step
// made by the host (eager) and replayed as one recorded step; the time is the median over runs of
// many steps. at_once_N: N networks side by side, each in a thread with a queue of its own, as a
// sweep trains them; the time is that of all their steps over their number.
//
// Counters: GFLOP/s of the convolutions, and their share of the peak of the units that compute
// them, which is measured right before; the memory of the step's arena. On a GPU also what the host
// does in one step (launches, replays, allocations, waits) and the most memory that was held.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "bench/peak.h"
#include "bench/program.h"
#include "bench/samples.h"
#include "bench/workloads.h"
#include "experiments/localization/training.h"
#include "experiments/overlap/distinguish.h"
#include "experiments/run/progress.h"

#if SIDECHANNEL_HAS_CUDA
#include <cuda_runtime_api.h>

#include "bench/peak_cuda.h"
#endif

namespace sidechannel::bench {
namespace {

// Operations of the convolutions of one training step: three times those of a forward pass, with
// the gradients of weights and of inputs, which the first layer has none of.
double step_flops(const Sizes& sizes) {
  const LocalizerConfig& network = sizes.network;
  std::int64_t length = sizes.length;
  double flops = 0;
  for (std::int64_t layer = 0; layer < network.depth; ++layer) {
    if (network.padding == Padding::kNone) length -= network.kernel_size - 1;
    const std::int64_t in = layer == 0 ? 1 : network.channels;
    const std::int64_t out = layer == network.depth - 1 ? 1 : network.channels;
    flops += (layer == 0 ? 2 : 3) * 2.0 *
             static_cast<double>(sizes.sequences * length * in * out * network.kernel_size);
  }
  return flops;
}

using StepPointer = std::unique_ptr<experiments::TrainingStep>;

StepPointer step_of(Localizer& network, const experiments::LocalizationSettings& s) {
  return std::make_unique<experiments::LocalizationStep>(network, s.training_rate(), s.batch,
                                                         s.length, 0);
}
// Pairs that share half of their positions.
StepPointer step_of(Localizer& network, const experiments::OverlapSettings& s) {
  return std::make_unique<experiments::DistinguishStep>(network, s.training_rate(), s.batch,
                                                        s.length() / 2, 0);
}

// A step with the network that it trains.
struct Training {
  double flops;
  std::unique_ptr<Localizer> network;
  StepPointer step;
};

Training make_training(const Device& device, const Workload& workload) {
  return with_settings(workload, [&](const auto& s) {
    const Sizes sizes = sizes_of(s);
    auto network = std::make_unique<Localizer>(device, DType::kF32, sizes.network, 0);
    StepPointer step = step_of(*network, s);
    return Training{step_flops(sizes), std::move(network), std::move(step)};
  });
}

void cpu_step(benchmark::State& state, const Workload& workload) {
  const Device device = Device::cpu();
  const Training training = make_training(device, workload);
  experiments::TrainingStep& step = *training.step;
  const int threads = device.cpu_queue().threads();
  const double peak = fma_peak(threads);
  step();
  for (auto _ : state) step();
  const double flops = training.flops;
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["peak"] = peak;
  state.counters["share"] =
      benchmark::Counter(flops * 1e-9 / peak, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["threads"] = threads;
  state.counters["arena_MB"] = static_cast<double>(step.arena_bytes()) * 1e-6;
}

#if SIDECHANNEL_HAS_CUDA

// FLOP/s
double gpu_peak(const std::string& name, Precision precision) {
  // On a queue of its own: the buffers that it copies are none of a step's memory.
  static const CudaPeaks peaks = cuda_peaks(Device::from_name(name).cuda_queue());
  return precision == Precision::kTf32 ? peaks.tf32 : peaks.ffma;
}

// A network in training, with the queue that it has for itself.
struct GpuTraining {
  Device device;
  Training training;

  GpuTraining(const std::string& name, Precision precision, const Workload& workload)
      : device(Device::from_name(name, 0, precision)), training(make_training(device, workload)) {
    run(5);  // recorded in the third at the latest
  }
  void run(int steps) const {
    cudaSetDevice(device.cuda_queue().info().index);  // this thread's, too
    for (int i = 0; i < steps; ++i) (*training.step)();
    device.synchronize();
  }
};

// Seconds of one step, of `steps` that follow each other on each of the queues.
double seconds_of(const std::deque<GpuTraining>& networks, int steps) {
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::future<void>> others;
  for (std::size_t i = 1; i < networks.size(); ++i) {
    others.push_back(std::async(std::launch::async, [&, i] { networks[i].run(steps); }));
  }
  networks.front().run(steps);
  for (std::future<void>& other : others) other.get();
  return experiments::seconds_since(start) / (steps * static_cast<double>(networks.size()));
}

// How a step is made: what is set in the environment.
struct Mode {
  const char* name;
  std::vector<std::pair<const char*, const char*>> environment = {};
  int networks = 1;
  bool only_tf32 = false;
  bool only_64 = false;  // for hidden layers of 64 channels
};
const std::vector<Mode>& modes() {
  static const std::vector<Mode> all = {
      {.name = "replayed"},
      {.name = "eager", .environment = {{"SIDECHANNEL_REPLAY", "off"}}},
      {.name = "overlapping", .environment = {{"SIDECHANNEL_OVERLAP", "on"}}},
      {.name = "wgmma",
       .environment = {{"SIDECHANNEL_LAYERS", "wgmma"}},
       .only_tf32 = true,
       .only_64 = true},
      {.name = "wgmma-overlapping",
       .environment = {{"SIDECHANNEL_LAYERS", "wgmma"}, {"SIDECHANNEL_OVERLAP", "on"}},
       .only_tf32 = true,
       .only_64 = true},
      {.name = "apart", .environment = {{"SIDECHANNEL_LAYERS", "apart"}}},
      {.name = "at_once_2", .networks = 2, .only_tf32 = true},
      {.name = "at_once_4", .networks = 4, .only_tf32 = true},
      {.name = "at_once_8", .networks = 8, .only_tf32 = true}};
  return all;
}

void gpu_step(benchmark::State& state, const Workload& workload, const std::string& name,
              Precision precision, const Mode& mode) {
  for (const Mode& other : modes()) {
    for (const auto& [variable, value] : other.environment) unsetenv(variable);
  }
  for (const auto& [variable, value] : mode.environment) setenv(variable, value, 1);
  const double peak = gpu_peak(name, precision);
  std::deque<GpuTraining> networks;
  for (int i = 0; i < mode.networks; ++i) networks.emplace_back(name, precision, workload);
  const kernels::CudaQueue& queue = networks.front().device.cuda_queue();
  const Training& training = networks.front().training;
  experiments::TrainingStep& step = *training.step;
  if (precision == Precision::kTf32 && queue.info().compute_capability < 80) {
    state.SkipWithError("no TF32 on this GPU");
    return;
  }

  const kernels::CudaQueue::Counters before = queue.counters();
  constexpr int kCounted = 10;
  for (int i = 0; i < kCounted; ++i) step();
  const kernels::CudaQueue::Counters after = queue.counters();

  constexpr double kRun = 0.03;  // seconds
  const double once = seconds_of(networks, 10) * mode.networks;
  const int steps = queue.info().emulated ? 1 : std::clamp(static_cast<int>(kRun / once), 3, 1000);
  const int runs = queue.info().emulated ? 3 : mode.networks > 1 ? 10 : 20;
  const Samples samples = sample(runs, [&] { return seconds_of(networks, steps); });
  for (auto _ : state) state.SetIterationTime(samples.median());

  const double rate = training.flops / samples.median();
  state.counters["GFLOP/s"] = rate * 1e-9;
  state.counters["peak"] = peak * 1e-9;
  state.counters["share"] = rate / peak;
  state.counters["min_us"] = samples.min() * 1e6;
  state.counters["spread"] = samples.spread();
  using Counters = kernels::CudaQueue::Counters;
  for (const auto& [counted, count] : {std::pair{"launches", &Counters::launches},
                                       {"graph_launches", &Counters::graph_launches},
                                       {"allocations", &Counters::allocations},
                                       {"synchronizations", &Counters::synchronizations}}) {
    state.counters[counted] = static_cast<double>(after.*count - before.*count) / kCounted;
  }
  state.counters["arena_MB"] = static_cast<double>(step.arena_bytes()) * 1e-6;
  state.counters["peak_memory_MB"] = static_cast<double>(queue.memory_peak()) * 1e-6;
  // What it was, whatever was asked for.
  state.SetLabel(after.graph_launches > before.graph_launches ? "replayed" : "eager");
}

void add_gpu_steps(const std::string& device) {
  for (const Workload& workload : kWorkloads) {
    for (const Precision precision : {Precision::kTf32, Precision::kFp32}) {
      for (const Mode& mode : modes()) {
        if (mode.only_tf32 && precision == Precision::kFp32) continue;
        if (mode.only_64 && workload.name == std::string_view("demo")) continue;
        const std::string name =
            fmt::format("training_step/{}/{}/{}", workload.name, name_of(precision), mode.name);
        add_benchmark(name, [=](benchmark::State& state) {
          gpu_step(state, workload, device, precision, mode);
        });
      }
    }
  }
}

#else

void add_gpu_steps(const std::string&) {}  // never reached: no device is a GPU

#endif

void add_cpu_steps() {
  for (const Workload& workload : kWorkloads) {
    benchmark::RegisterBenchmark(
        fmt::format("training_step/{}", workload.name).c_str(),
        [&workload](benchmark::State& state) { cpu_step(state, workload); })
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
  }
}

void print_workloads() {
  Json all;
  for (const Workload& workload : kWorkloads) {
    with_settings(workload, [&](const auto& s) {
      const Sizes sizes = sizes_of(s);
      Json& json = all[workload.name] = experiments::to_json(s);
      json["norm"] = workload.norm;
      json["sequences"] = sizes.sequences;
      json["length"] = sizes.length;
      json["parameters"] =
          Localizer(Device::cpu(1), DType::kF32, sizes.network, 0).parameters().size();
    });
  }
  std::puts(all.dump(2).c_str());
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

}  // namespace
}  // namespace sidechannel::bench

int main(int argc, char** argv) {
  using namespace sidechannel;
  if (argc == 2 && std::string(argv[1]) == "--workloads") {
    bench::print_workloads();
    return 0;
  }
  const std::string name = bench::take_device(argc, argv);
  return bench::run_benchmarks("bench_step", argc, argv, [&] {
    const Device device = Device::from_name(name);
    if (device.is_cuda()) {
      benchmark::AddCustomContext("gpu", device.description());
      bench::add_gpu_steps(device.name());
    } else {
      bench::add_cpu_steps();
    }
  });
}
