// Every kernel of the CUDA backend, beside what the GPU could do at most, and cuBLASLt.
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
//          cache may hold: where it does, a share of the bandwidth can exceed 1.
//
// The time shown is the median of many samples. A library's time beside it is measured likewise.
//
//   bench_cuda --variants
//
// times, warm, every kernel that can compute a case instead, where there are several: counters
// "us of NAME", and "difference of NAME", the largest of an entry of its result from that of the
// kernel which is chosen, as a share of the largest entry. The time shown is the best one's.
//
//   bench_cuda --predict FFMA,TF32,COPY
//
// prints, without a GPU, the floors on one of these peaks, in TFLOP/s, TFLOP/s and TB/s.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "bench/cuda_timer.h"
#include "bench/peak_cuda.h"
#include "bench/report.h"

namespace sidechannel::bench {
namespace {

using CudaCase = Case<CudaQueue>;

Floor floor_of(const Cost& cost, Precision precision, const CudaPeaks& peaks) {
  const bool tf32 = cost.products && precision == Precision::kTf32 && peaks.tf32 > 0;
  const double arithmetic = cost.flops / (tf32 ? peaks.tf32 : peaks.ffma);
  const double memory = cost.bytes() / peaks.copy;
  if (memory >= arithmetic) return {memory, "memory"};
  return {arithmetic, tf32 ? "TF32 mma.sync" : "FFMA"};
}

// Of the entries of `a` from those of `chosen`, the largest difference as a share of the largest
// entry of its array; infinite where one is no number.
double largest_difference(const std::vector<std::vector<float>>& chosen,
                          const std::vector<std::vector<float>>& a) {
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    double difference = 0, largest = 0;
    for (std::size_t j = 0; j < a[i].size(); ++j) {
      if (!std::isfinite(a[i][j])) return HUGE_VAL;
      difference = std::max(difference, std::abs(double{a[i][j]} - double{chosen[i][j]}));
      largest = std::max(largest, std::abs(double{chosen[i][j]}));
    }
    if (difference > 0) worst = std::max(worst, difference / largest);
  }
  return worst;
}

// Calls f(name, precision) for every precision that makes a difference.
template <class F>
void for_precisions(const CudaCase& c, const F& f) {
  if (!c.cost.products) return f(c.name, Precision::kFp32);
  for (const Precision precision : {Precision::kFp32, Precision::kTf32}) {
    if (c.cost.tf32_alone && precision == Precision::kFp32) continue;
    f(c.name + "/" + name_of(precision), precision);
  }
}

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
    l2_bytes_ = fp32_.cuda_queue().info().emulated ? 4096 : l2;  // nothing is flushed from it
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

  void measure(benchmark::State& state, const CudaCase& c, Precision precision, bool warm) {
    const Device& device = device_of(precision);
    CudaQueue& queue = device.cuda_queue();
    run_case(state, c, Memory(device, queue), floor_of(c.cost, precision, peaks_),
             [&](const std::function<void()>& launch) {
               launch();  // the second finds its scratch memory and its algorithms
               launch();
               return warm ? measure_warm(queue, launch) : measure_cold(queue, launch);
             });
  }
  // Each on memory of its own, with the same contents: what it leaves out differs, too.
  void measure_variants(benchmark::State& state, const CudaCase& c, Precision precision) {
    const Device& device = device_of(precision);
    CudaQueue& queue = device.cuda_queue();
    std::vector<std::vector<float>> chosen;
    double best = HUGE_VAL;
    for (std::size_t variant = 0;; ++variant) {
      Memory memory(device, queue);
      const Timed kernel = c.ours(memory, variant);
      if (!kernel.launch) break;
      kernel.launch();
      const auto contents = memory.contents();
      if (variant == 0) chosen = contents;
      kernel.launch();
      const double seconds = measure_warm(queue, kernel.launch).median();
      state.counters["us of " + kernel.by] = seconds * 1e6;
      state.counters["difference of " + kernel.by] = largest_difference(chosen, contents);
      if (seconds < best) state.SetLabel(kernel.by);
      best = std::min(best, seconds);
    }
    if (!std::isfinite(best)) return state.SkipWithError(kNoKernel);
    for (auto _ : state) state.SetIterationTime(best);
  }
  bool has_tf32() const { return peaks_.tf32 > 0; }

 private:
  const Device& device_of(Precision precision) const {
    return precision == Precision::kFp32 ? fp32_ : tf32_;
  }
  Samples measure_cold(CudaQueue& queue, const std::function<void()>& launch) {
    if (!flush_) {
      flush_.emplace(fp32_, DType::kF32,
                     Shape{2 * l2_bytes_ / static_cast<std::int64_t>(sizeof(float))});
    }
    CudaTimer timer(queue);
    return sample(times(queue, 100), [&] {
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
    return sample(times(queue, 50), [&] {
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

// What a GPU of these peaks could do, for one to come.
void predict(const CudaPeaks& peaks) {
  nlohmann::ordered_json kernels;
  for (const CudaCase& c : Cases<CudaQueue>().list()) {
    for_precisions(c, [&](const std::string& name, Precision precision) {
      const Floor floor = floor_of(c.cost, precision, peaks);
      kernels[name] = {{"floor_us", std::round(floor.seconds * 1e9) * 1e-3},
                       {"limit", floor.limit}};
    });
  }
  const nlohmann::ordered_json prediction = {{"ffma_TFLOP_s", peaks.ffma * 1e-12},
                                             {"tf32_mma_TFLOP_s", peaks.tf32 * 1e-12},
                                             {"copy_GB_s", peaks.copy * 1e-9},
                                             {"kernels", kernels}};
  std::puts(prediction.dump(2).c_str());
}

// [TFLOP/s, TFLOP/s, TB/s]
int predict_for(const char* text) {
  CudaPeaks assumed;
  if (std::sscanf(text, "%lf,%lf,%lf", &assumed.ffma, &assumed.tf32, &assumed.copy) != 3) {
    std::fprintf(stderr, "--predict FFMA,TF32,COPY in TFLOP/s, TFLOP/s and TB/s\n");
    return 2;
  }
  for (double* peak : {&assumed.ffma, &assumed.tf32, &assumed.copy}) *peak *= 1e12;
  predict(assumed);
  return 0;
}

void add_all(bool variants) {
  std::string why;
  if (cuda_devices(&why).empty()) throw Error("not run (" + why + ")");
  const auto bench = std::make_shared<Bench>();
  bench->describe();
  for (const CudaCase& c : Cases<CudaQueue>().list()) {
    for_precisions(c, [&](const std::string& name, Precision precision) {
      if (precision == Precision::kTf32 && !bench->has_tf32()) return;
      if (variants) {
        if (!c.has_variants) return;
        return add_benchmark(
            name, [=](benchmark::State& state) { bench->measure_variants(state, c, precision); });
      }
      for (const bool warm : {false, true}) {
        add_benchmark(name + (warm ? "/warm" : "/cold"),
                      [=](benchmark::State& state) { bench->measure(state, c, precision, warm); });
      }
    });
  }
}

}  // namespace
}  // namespace sidechannel::bench

int main(int argc, char** argv) {
  using namespace sidechannel::bench;
  if (argc == 3 && std::string(argv[1]) == "--predict") return predict_for(argv[2]);
  const bool variants = argc > 1 && std::string(argv[1]) == "--variants";
  if (variants) std::rotate(argv + 1, argv + 2, argv + argc--);
  return run_benchmarks("bench_cuda", argc, argv, [=] { add_all(variants); });
}
