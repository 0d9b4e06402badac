// Every kernel of the CUDA backend, beside what the GPU could do at most.
//
// The peaks (fused multiply-adds, TF32 on tensor cores, copies) are measured first, in the same
// run; they and the costs of launches stand in the context of the output. A kernel's floor is the
// larger of two times: its operations at the peak of the units that do them, and its bytes (each
// input read once, each output written once) at the bandwidth of a copy. The label says which,
// `share` is the floor over the measured time.
//
//   cold   after a buffer of twice the L2 cache was written. The time is that between two events
//          around the kernel; around one that does nothing it is `between_two_events_us`.
//   warm   again and again in a recorded step, as a training step runs it, on data that the L2
//   cache
//          may hold: where it does, a share of the bandwidth can exceed 1.
//
// The time shown is the median of many samples.

#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench/cuda_timer.h"
#include "bench/peak_cuda.h"
#include "bench/samples.h"
#include "engine/tensor.h"
#include "kernels/adam.h"
#include "kernels/conv1d.h"
#include "kernels/copy.h"
#include "kernels/cuda/conv1d/variants.h"
#include "kernels/fill.h"
#include "kernels/linear.h"
#include "kernels/moments.h"
#include "kernels/mse.h"
#include "kernels/norm_act.h"
#include "kernels/random.h"
#include "kernels/reduce.h"
#include "kernels/relu.h"
#include "kernels/windows.h"

namespace sidechannel::bench {
namespace {

using namespace kernels;
using enum Activation;

// Device memory for one benchmark.
class Memory {
 public:
  explicit Memory(const Device& device) : device_(device) {}

  CudaQueue& queue() const { return device_.cuda_queue(); }

  // Uniform on [-1, 1): never zeros, which a GPU computes with less power and a higher clock.
  float* random(std::int64_t size) {
    const auto number = static_cast<std::uint32_t>(tensors_.size());
    float* const data = floats(size);
    run(queue(), UniformFill<float>{
                     .random = {1, 0}, .step = number, .bound = 1.0, .size = size, .out = data});
    return data;
  }
  float* ones(std::int64_t size) {
    float* const data = floats(size);
    fill(queue(), size, 1.0f, data);
    return data;
  }
  // One T, or several, on the device.
  template <class T>
  T* values(std::vector<T> host) {
    tensors_.emplace_back(device_, DType::kU8,
                          Shape{static_cast<std::int64_t>(host.size() * sizeof(T))});
    T* const data = reinterpret_cast<T*>(tensors_.back().template data<std::uint8_t>());
    queue().copy_to_device(data, host.data(), host.size() * sizeof(T));
    return data;
  }

 private:
  float* floats(std::int64_t size) {
    tensors_.emplace_back(device_, DType::kF32, Shape{size});
    return tensors_.back().data<float>();
  }
  Device device_;
  std::vector<Tensor> tensors_;
};

// One call of a kernel on one problem.
struct Case {
  std::string name;
  double flops = 0;       // of multiplications and additions that tensor cores or FFMAs do
  double bytes = 0;       // that must cross the memory's bus at least
  bool products = false;  // computed in the queue's precision
  // Allocates and fills, and returns what launches the kernel.
  std::function<std::function<void()>(Memory&)> prepare;
  // Which of several kernels computes this, if there are several.
  std::function<std::string(const CudaQueue&)> variant;
};

// What launches the call that `make` allocates the buffers of.
template <class Make>
auto launching(const Make& make) {
  return [make](Memory& m) -> std::function<void()> {
    return [&queue = m.queue(), call = make(m)] { run(queue, call); };
  };
}

struct Floor {
  double seconds;
  const char* limit;
};

Floor floor_of(const Case& c, Precision precision, const CudaPeaks& peaks) {
  const bool tf32 = c.products && precision == Precision::kTf32 && peaks.tf32 > 0;
  const double arithmetic = c.flops / (tf32 ? peaks.tf32 : peaks.ffma);
  const double memory = c.bytes / peaks.copy;
  if (memory >= arithmetic) return {memory, "memory"};
  return {arithmetic, tf32 ? "TF32 mma.sync" : "FFMA"};
}

constexpr double kFloat = sizeof(float);

// --- The problems -------------------------------------------------------------------------------

// A middle layer of a network, with the name under which the docs know it.
struct Layer {
  std::string name;
  std::int64_t batch, length, channels;
  std::int64_t samples_per_set = 1;  // of batch norm and PackNorm
  std::int64_t padding = 2;

  std::int64_t size() const { return batch * length * channels; }
};

const Layer kPaper{"paper", 32, 600, 64};
const Layer kDemo{"demo", 8, 64, 32};
const Layer kBatchNorm{"paper-batch-norm", 32, 250, 64, 4};
const Layer kOverlap{"overlap", 64, 129, 64, 2, 0};  // the first and largest of valid convolutions

void add_conv1d(std::vector<Case>& cases, const std::string& name, const Conv1dDims& dims,
                bool products, bool input_gradient) {
  const std::int64_t x = dims.batch * dims.length * dims.channels_in;
  const std::int64_t y = dims.batch * dims.length_out() * dims.channels_out;
  const std::int64_t w = dims.kernel_size * dims.channels_in * dims.channels_out;
  const std::int64_t b = dims.channels_out;
  Case common;
  common.flops = 2.0 * static_cast<double>(y * dims.channels_in * dims.kernel_size);
  common.products = products;
  const auto variant = [](const auto& call) {
    return [call](const CudaQueue& queue) {
      return variants_of(queue.info(), queue.precision(), call).front();
    };
  };

  Case forward = common;
  forward.name = "conv1d_forward/" + name;
  forward.bytes = kFloat * static_cast<double>(x + w + b + y);
  forward.variant = variant(Conv1dForward<float>{dims});
  forward.prepare = launching([=](Memory& m) {
    return Conv1dForward<float>{
        .dims = dims, .x = m.random(x), .w = m.random(w), .b = m.random(b), .y = m.random(y)};
  });
  cases.push_back(forward);

  if (input_gradient) {
    Case input = common;
    input.name = "conv1d_backward_input/" + name;
    input.bytes = kFloat * static_cast<double>(x + w + y);
    input.variant = variant(Conv1dBackwardInput<float>{dims});
    input.prepare = launching([=](Memory& m) {
      return Conv1dBackwardInput<float>{
          .dims = dims, .dy = m.random(y), .w = m.random(w), .dx = {m.random(x)}};
    });
    cases.push_back(input);
  }

  Case params = common;
  params.name = "conv1d_backward_params/" + name;
  params.bytes = kFloat * static_cast<double>(x + y + w + b);
  params.variant = variant(Conv1dBackwardParams<float>{dims});
  params.prepare = launching([=](Memory& m) {
    return Conv1dBackwardParams<float>{.dims = dims,
                                       .x = m.random(x),
                                       .dy = m.random(y),
                                       .dw = {m.random(w)},
                                       .db = {m.random(b)}};
  });
  cases.push_back(params);
}

void add_convolutions(std::vector<Case>& cases, const Layer& layer) {
  const auto dims = [&](std::int64_t in, std::int64_t out) {
    return Conv1dDims{layer.batch, layer.length, in, out, 5, layer.padding};
  };
  add_conv1d(cases, layer.name, dims(layer.channels, layer.channels), true, true);
  add_conv1d(cases, layer.name + "/first", dims(1, layer.channels), false, false);
  add_conv1d(cases, layer.name + "/last", dims(layer.channels, 1), false, true);
}

// What reads and writes all of a layer so many times.
Case of_layer(const std::string& name, const Layer& layer, double passes) {
  Case c;
  c.name = name + "/" + layer.name;
  c.bytes = passes * kFloat * static_cast<double>(layer.size());
  return c;
}

void add_norm(std::vector<Case>& cases, const Layer& layer, const std::string& kind,
              std::int64_t channels_per_set, std::int64_t samples_per_set) {
  const NormDims dims{layer.batch,     layer.length, layer.channels, channels_per_set,
                      samples_per_set, 1e-5,         kRelu};
  const std::int64_t size = layer.size();
  const std::int64_t c = layer.channels;
  const std::int64_t statistics = dims.groups() * c;

  Case forward = of_layer("norm_relu_forward/" + kind, layer, 2);
  forward.prepare = launching([=](Memory& m) {
    return NormForward<float>{
        .dims = dims,
        .x = m.random(size),
        .gamma = m.random(c),
        .beta = m.random(c),
        .y = m.random(size),
        .statistics = {m.random(statistics), m.random(statistics), m.random(statistics)}};
  });
  cases.push_back(forward);

  Case backward = of_layer("norm_relu_backward/" + kind, layer, 3);
  backward.prepare = launching([=](Memory& m) {
    return NormBackward<float>{
        .dims = dims,
        .x = m.random(size),
        .gamma = m.random(c),
        .beta = m.random(c),
        .statistics = {m.random(statistics), m.random(statistics), m.ones(statistics)},
        .dy = m.random(size),
        .dx = {m.random(size)},
        .dbeta = {m.random(c)},
        .dgamma = {m.random(c)}};
  });
  cases.push_back(backward);
}

void add_population_norm(std::vector<Case>& cases, const Layer& layer) {
  const NormDims dims{layer.batch,           layer.length, layer.channels, 1,
                      layer.samples_per_set, 1e-5,         kRelu};
  const std::int64_t size = layer.size();
  const std::int64_t c = layer.channels;
  const std::int64_t statistics = dims.groups() * c;
  Case forward = of_layer("norm_relu_population_forward", layer, 2);
  forward.prepare = launching([=](Memory& m) {
    return NormPopulationForward<float>{.dims = dims,
                                        .x = m.random(size),
                                        .gamma = m.random(c),
                                        .beta = m.random(c),
                                        .mean = m.random(c),
                                        .variance = m.ones(c),
                                        .y = m.random(size)};
  });
  cases.push_back(forward);

  Case backward = of_layer("norm_relu_population_backward", layer, 3);
  backward.prepare = launching([=](Memory& m) {
    return NormPopulationBackward<float>{.dims = dims,
                                         .x = m.random(size),
                                         .gamma = m.random(c),
                                         .beta = m.random(c),
                                         .mean = m.random(c),
                                         .variance = m.ones(c),
                                         .dy = m.random(size),
                                         .dx = {m.random(size)},
                                         .dbeta = {m.random(c)},
                                         .dgamma = {m.random(c)}};
  });
  cases.push_back(backward);

  Case running;
  running.name = "norm_update_running/" + layer.name;
  running.bytes = kFloat * static_cast<double>(2 * statistics + 4 * c);
  running.prepare = launching([=](Memory& m) {
    return NormUpdateRunning<float>{
        .dims = dims,
        .momentum = 0.1,
        .statistics = {m.random(statistics), m.random(statistics), m.ones(statistics)},
        .running_mean = m.random(c),
        .running_variance = m.ones(c)};
  });
  cases.push_back(running);
}

void add_elementwise(std::vector<Case>& cases, const Layer& layer) {
  const std::int64_t size = layer.size();
  Case forward = of_layer("relu_forward", layer, 2);
  forward.prepare = launching([=](Memory& m) {
    return ReluForward<float>{.size = size, .x = m.random(size), .y = m.random(size)};
  });
  cases.push_back(forward);

  Case backward = of_layer("relu_backward", layer, 3);
  backward.prepare = launching([=](Memory& m) {
    return ReluBackward<float>{
        .size = size, .y = m.random(size), .dy = m.random(size), .dx = {m.random(size)}};
  });
  cases.push_back(backward);

  Case copying = of_layer("copy", layer, 2);
  copying.prepare = [=](Memory& m) {
    return [=, &queue = m.queue(), x = m.random(size), y = m.random(size)] {
      copy(queue, size, x, {y});
    };
  };
  cases.push_back(copying);

  Case filling = of_layer("fill", layer, 1);
  filling.prepare = [=](Memory& m) {
    return [=, &queue = m.queue(), x = m.random(size)] { fill(queue, size, 1.0f, x); };
  };
  cases.push_back(filling);
}

// The network's output [batch, length], its noise, its loss and what is averaged over it.
void add_ends(std::vector<Case>& cases, const Layer& layer) {
  const std::int64_t size = layer.batch * layer.length;
  const std::int64_t length = layer.length;
  const MseDims dims{size, length};
  const auto bytes = [](double floats) { return kFloat * floats; };
  const auto n = static_cast<double>(size);
  const auto l = static_cast<double>(length);

  Case noise;
  noise.name = "normal_fill/" + layer.name;
  noise.bytes = bytes(n);
  noise.prepare = launching([=](Memory& m) {
    return NormalFill<float>{.random = {1, 1},
                             .at = m.values<RandomPosition>({{}}),
                             .samples = layer.batch,
                             .length = length,
                             .out = m.random(size)};
  });
  cases.push_back(noise);

  Case forward;
  forward.name = "mse_forward/" + layer.name;
  forward.bytes = bytes(n + l);
  forward.prepare = launching([=](Memory& m) {
    return MseForward<float>{
        .dims = dims, .y = m.random(size), .target = m.random(length), .loss = m.random(1)};
  });
  cases.push_back(forward);

  Case backward;
  backward.name = "mse_backward/" + layer.name;
  backward.bytes = bytes(2 * n + l);
  backward.prepare = launching([=](Memory& m) {
    return MseBackward<float>{.dims = dims,
                              .y = m.random(size),
                              .target = m.random(length),
                              .dloss = m.ones(1),
                              .dy = {m.random(size)}};
  });
  cases.push_back(backward);

  Case moments;
  moments.name = "moments_update/" + layer.name;
  moments.bytes = bytes(n) + 4 * l * sizeof(double);
  const std::vector<double> zeros(static_cast<std::size_t>(length));
  moments.prepare = launching([=](Memory& m) {
    return MomentsUpdate<float>{.samples = layer.batch,
                                .length = length,
                                .x = m.random(size),
                                .count = m.values<std::int64_t>({0}),
                                .mean = m.values(zeros),
                                .m2 = m.values(zeros)};
  });
  cases.push_back(moments);
}

// Pairs of sequences that share half of their positions.
void add_windows(std::vector<Case>& cases) {
  const WindowsDims dims{kOverlap.batch / 2, 2, kOverlap.length, kOverlap.length / 2};
  const std::int64_t sequences = dims.samples * dims.extent();
  Case both;
  both.bytes = kFloat * static_cast<double>(sequences + dims.size());
  Case forward = both;
  forward.name = "windows_forward/overlap";
  forward.prepare = launching([=](Memory& m) {
    return WindowsForward<float>{
        .dims = dims, .x = m.random(sequences), .y = m.random(dims.size())};
  });
  cases.push_back(forward);

  Case backward = both;
  backward.name = "windows_backward/overlap";
  backward.prepare = launching([=](Memory& m) {
    return WindowsBackward<float>{
        .dims = dims, .dy = m.random(dims.size()), .dx = {m.random(sequences)}};
  });
  cases.push_back(backward);
}

void add_adam(std::vector<Case>& cases, const std::string& name, std::int64_t size) {
  const auto n = static_cast<double>(size);
  Case squares;
  squares.name = "sum_of_squares/" + name;
  squares.bytes = kFloat * n;
  squares.prepare = launching([=](Memory& m) {
    return SumOfSquares<float>{.size = size, .x = m.random(size), .result = m.values<double>({0})};
  });
  cases.push_back(squares);

  Case update;
  update.name = "adam/" + name;
  update.bytes = 7 * kFloat * n;
  update.prepare = [=](Memory& m) {
    const AdamRule rule{LearningRate{1e-9}};
    return [=, &queue = m.queue(), g = m.random(size), p = m.random(size), mean = m.random(size),
            v = m.ones(size), loss = m.ones(1), squares = m.values<double>({1}),
            state = m.values<AdamState>({{}})] {
      run(queue,
          AdamBegin<float>{.rule = rule, .sum_of_squares = squares, .loss = loss, .state = state});
      run(queue,
          AdamUpdate<float>{
              .rule = rule, .state = state, .size = size, .g = g, .p = p, .m = mean, .v = v});
    };
  };
  cases.push_back(update);
}

// A layer of a probe.
void add_linear(std::vector<Case>& cases, const LinearDims& dims) {
  const std::int64_t x = dims.rows * dims.in;
  const std::int64_t y = dims.rows * dims.out;
  const std::int64_t w = dims.in * dims.out;
  const std::string name =
      std::to_string(dims.rows) + "x" + std::to_string(dims.in) + "x" + std::to_string(dims.out);
  Case forward;
  forward.name = "linear_forward/" + name;
  forward.flops = 2.0 * static_cast<double>(dims.rows * w);
  forward.bytes = kFloat * static_cast<double>(x + w + dims.out + y);
  forward.products = true;
  forward.prepare = launching([=](Memory& m) {
    return LinearForward<float>{.dims = dims,
                                .x = m.random(x),
                                .w = m.random(w),
                                .b = m.random(dims.out),
                                .y = m.random(y)};
  });
  cases.push_back(forward);

  Case backward;
  backward.name = "linear_backward/" + name;
  backward.flops = 4.0 * static_cast<double>(dims.rows * w);
  backward.bytes = kFloat * static_cast<double>(2 * x + 2 * w + dims.out +
                                                (dims.activation == Activation::kRelu ? 2 * y : y));
  backward.products = true;
  backward.prepare = launching([=](Memory& m) {
    return LinearBackward<float>{.dims = dims,
                                 .x = m.random(x),
                                 .w = m.random(w),
                                 .y = m.random(y),
                                 .dy = m.random(y),
                                 .dx = {m.random(x)},
                                 .dw = {m.random(w)},
                                 .db = {m.random(dims.out)}};
  });
  cases.push_back(backward);
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  add_convolutions(cases, kPaper);
  add_convolutions(cases, kDemo);
  add_convolutions(cases, kBatchNorm);
  add_convolutions(cases, kOverlap);
  add_norm(cases, kPaper, "instance", 1, 1);
  add_norm(cases, kPaper, "group", 8, 1);
  add_norm(cases, kPaper, "layer", kPaper.channels, 1);
  add_norm(cases, kDemo, "instance", 1, 1);
  add_norm(cases, kBatchNorm, "batch", 1, kBatchNorm.samples_per_set);
  add_norm(cases, kOverlap, "pack", 1, kOverlap.samples_per_set);
  add_population_norm(cases, kBatchNorm);
  add_elementwise(cases, kPaper);
  for (const Layer& layer : {kPaper, kDemo}) add_ends(cases, layer);
  add_windows(cases);
  add_adam(cases, "paper", 620'865);
  add_adam(cases, "demo", 31'905);
  const std::int64_t rows = kPaper.batch * kPaper.length;
  add_linear(cases, {rows, 64, 256, kRelu});
  add_linear(cases, {rows, 256, 256, kRelu});
  add_linear(cases, {rows, 256, 1, kNone});
  return cases;
}

// --- Measuring ----------------------------------------------------------------------------------

class Bench {
 public:
  Bench()
      : fp32_(Device::cuda(0, Precision::kFp32)),
        tf32_(Device::cuda(0, Precision::kTf32)),
        peaks_(cuda_peaks(fp32_.cuda_queue())) {
    int l2 = 0;
    const int gpu = fp32_.cuda_queue().info().index;
    SC_CHECK(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, gpu) == cudaSuccess && l2 > 0,
             "the size of the L2 cache is unknown");
    l2_bytes_ = l2;
  }

  void describe() const {
    const CudaDeviceInfo& gpu = fp32_.cuda_queue().info();
    const auto add = [](const char* key, double value) {
      benchmark::AddCustomContext(key, fmt::format("{:.6g}", value));
    };
    benchmark::AddCustomContext("gpu", gpu.name);
    add("multiprocessors", gpu.multiprocessors);
    add("l2_MB", static_cast<double>(l2_bytes_) * 1e-6);
    add("ffma_TFLOP_s", peaks_.ffma * 1e-12);
    add("tf32_mma_TFLOP_s", peaks_.tf32 * 1e-12);
    add("copy_GB_s", peaks_.copy * 1e-9);
    add("launch_us", peaks_.launch * 1e6);
    add("launch_and_wait_us", peaks_.launch_and_wait * 1e6);
    add("replay_and_wait_us", peaks_.replay_and_wait * 1e6);
    add("recorded_launch_us", peaks_.recorded_launch * 1e6);
    add("between_two_events_us", peaks_.between_two_events * 1e6);
  }

  void add(const Case& c) {
    for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
      if (!c.products && precision == Precision::kTf32) continue;  // the same kernel
      if (precision == Precision::kTf32 && peaks_.tf32 == 0) continue;
      for (const bool warm : {false, true}) {
        std::string name = c.name;
        if (c.products) name += precision == Precision::kFp32 ? "/fp32" : "/tf32";
        name += warm ? "/warm" : "/cold";
        const auto run = [=, this](benchmark::State& state) {
          skip_on_error(state, [&] { measure(state, c, precision, warm); });
        };
        benchmark::RegisterBenchmark(name.c_str(), run)
            ->UseManualTime()
            ->Iterations(1)
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }

 private:
  void measure(benchmark::State& state, const Case& c, Precision precision, bool warm) {
    const Device& device = precision == Precision::kFp32 ? fp32_ : tf32_;
    Memory memory(device);
    const std::function<void()> launch = c.prepare(memory);
    launch();  // the second finds its scratch memory and its algorithms
    launch();
    const Samples samples = warm ? measure_warm(device.cuda_queue(), launch)
                                 : measure_cold(device.cuda_queue(), launch);
    for (auto _ : state) state.SetIterationTime(samples.median());

    const Floor floor = floor_of(c, precision, peaks_);
    const double seconds = samples.median();
    state.counters["min_us"] = samples.min() * 1e6;
    state.counters["spread"] = samples.spread();
    state.counters["GB/s"] = c.bytes / seconds * 1e-9;
    if (c.flops > 0) state.counters["TFLOP/s"] = c.flops / seconds * 1e-12;
    state.counters["floor_us"] = floor.seconds * 1e6;
    state.counters["share"] = floor.seconds / seconds;
    std::string label = floor.limit;
    if (c.variant) label += ", by " + c.variant(device.cuda_queue());
    state.SetLabel(label);
  }

  Samples measure_cold(CudaQueue& queue, const std::function<void()>& launch) {
    if (!flush_) {
      flush_.emplace(fp32_, DType::kF32,
                     Shape{2 * l2_bytes_ / static_cast<std::int64_t>(sizeof(float))});
    }
    CudaTimer timer(queue);
    return sample(100, [&] {
      // The device is busy with this while the host launches what comes next, so that no launch
      // is waited for between the events.
      fill(queue, flush_->size(), 1.0f, flush_->data<float>());
      timer.start();
      launch();
      return timer.stop();
    });
  }

  static Samples measure_warm(CudaQueue& queue, const std::function<void()>& launch) {
    constexpr double kSample = 300e-6;  // seconds; longer than it takes to begin a recorded step
    constexpr int kMost = 64;
    CudaTimer timer(queue);
    timer.start();
    launch();
    const double once = timer.stop();
    const int repeats = std::clamp(static_cast<int>(kSample / once), 2, kMost);
    queue.begin_capture();
    for (int i = 0; i < repeats; ++i) launch();
    const CudaGraph graph = queue.end_capture();
    for (int i = 0; i < 3; ++i) queue.launch(graph);
    return sample(50, [&] {
      timer.start();
      queue.launch(graph);
      return timer.stop() / repeats;
    });
  }

  Device fp32_;
  Device tf32_;
  CudaPeaks peaks_;
  std::int64_t l2_bytes_ = 0;
  std::optional<Tensor> flush_;
};

// What a GPU of these peaks could do, for one to come. [TFLOP/s, TFLOP/s, TB/s]
void predict(const CudaPeaks& peaks) {
  nlohmann::ordered_json kernels;
  for (const Case& c : all_cases()) {
    for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
      if (!c.products && precision == Precision::kTf32) continue;
      std::string name = c.name;
      if (c.products) name += precision == Precision::kFp32 ? "/fp32" : "/tf32";
      const Floor floor = floor_of(c, precision, peaks);
      kernels[name] = {{"floor_us", std::round(floor.seconds * 1e9) * 1e-3},
                       {"limit", floor.limit}};
    }
  }
  const nlohmann::ordered_json prediction = {{"ffma_TFLOP_s", peaks.ffma * 1e-12},
                                             {"tf32_mma_TFLOP_s", peaks.tf32 * 1e-12},
                                             {"copy_GB_s", peaks.copy * 1e-9},
                                             {"kernels", kernels}};
  std::puts(prediction.dump(2).c_str());
}

int main_of(int argc, char** argv) {
  CudaPeaks assumed;
  if (argc == 3 && std::string(argv[1]) == "--predict") {
    if (std::sscanf(argv[2], "%lf,%lf,%lf", &assumed.ffma, &assumed.tf32, &assumed.copy) != 3) {
      std::fprintf(stderr, "--predict FFMA,TF32,COPY in TFLOP/s, TFLOP/s and TB/s\n");
      return 2;
    }
    assumed.ffma *= 1e12;
    assumed.tf32 *= 1e12;
    assumed.copy *= 1e12;
    predict(assumed);
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  std::string why;
  if (cuda_devices(&why).empty()) {
    std::fprintf(stderr, "bench_cuda: not run (%s)\n", why.c_str());
    return 1;
  }
  Bench bench;
  bench.describe();
  for (const Case& c : all_cases()) bench.add(c);
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
    std::fprintf(stderr, "bench_cuda: %s\n", error.what());
    return 1;
  }
}
