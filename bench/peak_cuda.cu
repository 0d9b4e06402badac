// The peaks of a GPU. Each kernel does one thing in chains that stay in registers, with enough of
// them on every multiprocessor to hide the latency of each.

#include "bench/peak_cuda.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "bench/cuda_timer.h"
#include "bench/samples.h"
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/launch.h"

namespace sidechannel::bench {
namespace {

using kernels::CudaQueue;

constexpr int kThreads = 512;
constexpr int kBlocksPerMultiprocessor = 2;

// x = x * factor + term in kFfmaChains chains a thread.
constexpr int kFfmaChains = 16;

__global__ void __launch_bounds__(kThreads)
    ffma_chains(int rounds, float factor, float term, float* out) {
  kernels::device::after_earlier_launches();
  // Operands in registers that differ from thread to thread, as those of a real kernel are.
  factor -= 1e-6f * static_cast<float>(threadIdx.x);
  term += 1e-6f * static_cast<float>(threadIdx.x);
  float x[kFfmaChains];
#pragma unroll
  for (int i = 0; i < kFfmaChains; ++i) x[i] = 1e-3f * static_cast<float>(threadIdx.x + 32 * i);
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < kFfmaChains; ++i) x[i] = fmaf(x[i], factor, term);
  }
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kFfmaChains; ++i) sum += x[i];
  if (sum == -1) *out = sum;  // never; but the compiler does not know
}

// sum += a b in kMmaChains chains a warp, of 16 x 8 sums each.
constexpr int kMmaChains = 8;
constexpr double kMmaFlops = 2.0 * 16 * 8 * 8;

__global__ void __launch_bounds__(kThreads) mma_chains(int rounds, float scale, float* out) {
  kernels::device::after_earlier_launches();
  float sum[kMmaChains][4] = {};
  float a[4];
  float b[2];
  const auto number = [&](unsigned i) {
    const unsigned hash = (threadIdx.x * 6 + i) * 2654435761u >> 8;
    return kernels::device::to_tf32(scale * (static_cast<float>(hash) / (1 << 23) - 1));
  };
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) a[i] = number(i);
#pragma unroll
  for (unsigned i = 0; i < 2; ++i) b[i] = number(4 + i);
  for (int round = 0; round < rounds; ++round) {
#pragma unroll
    for (int i = 0; i < kMmaChains; ++i) {
      kernels::device::mma_tf32(sum[i], a[0], a[1], a[2], a[3], b[0], b[1]);
    }
  }
  float total = 0;
#pragma unroll
  for (int i = 0; i < kMmaChains; ++i) total += sum[i][0] + sum[i][1] + sum[i][2] + sum[i][3];
  if (total == -1) *out = total;  // as above
}

__global__ void nothing() {
  kernels::device::after_earlier_launches();
}

double host_seconds() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

kernels::Launch everywhere(const CudaQueue& queue) {
  return {kBlocksPerMultiprocessor * queue.info().multiprocessors, kThreads};
}

// The best of some runs of the device. A GPU that was idle takes its time to come up to its clock,
// so there are runs before that are not looked at.
template <class Run>
double best_seconds(CudaQueue& queue, double warm_up, const Run& run) {
  CudaTimer timer(queue);
  const auto once = [&] {
    timer.start();
    run();
    return timer.stop();
  };
  const double start = host_seconds();
  do once();
  while (!queue.info().emulated && host_seconds() - start < warm_up);
  return sample(times(queue, 20), once).min();
}

double ffma_peak(CudaQueue& queue, float* out) {
  const int rounds = times(queue, 20'000);
  const double seconds = best_seconds(queue, 0.5, [&] {
    launch(queue, "ffma_chains", ffma_chains, everywhere(queue), rounds, 0.999f, 1e-3f, out);
  });
  const double threads =
      static_cast<double>(queue.info().multiprocessors) * kBlocksPerMultiprocessor * kThreads;
  return 2.0 * kFfmaChains * rounds * threads / seconds;
}

double tf32_peak(CudaQueue& queue, float* out) {
  if (queue.info().compute_capability < 80) return 0;
  const int rounds = times(queue, 8'000);
  const double seconds = best_seconds(queue, 0.1, [&] {
    launch(queue, "mma_chains", mma_chains, everywhere(queue), rounds, 1.0f, out);
  });
  const double warps =
      static_cast<double>(queue.info().multiprocessors) * kBlocksPerMultiprocessor * kThreads / 32;
  return kMmaFlops * kMmaChains * rounds * warps / seconds;
}

// Of buffers far larger than the L2 cache.
double copy_peak(CudaQueue& queue) {
  const std::size_t largest = std::size_t{1024} * times(queue, 1 << 20);
  const std::size_t bytes = std::min(largest, queue.info().memory / 8);
  const std::shared_ptr<void> from = queue.allocate(bytes);
  const std::shared_ptr<void> to = queue.allocate(bytes);
  const double seconds =
      best_seconds(queue, 0.1, [&] { queue.copy_on_device(to.get(), from.get(), bytes); });
  return 2.0 * static_cast<double>(bytes) / seconds;
}

void launch_nothing(CudaQueue& queue) {
  launch(queue, "nothing", nothing, kernels::Launch{1, 32});
}

void launch_costs(CudaQueue& queue, CudaPeaks& peaks) {
  const int many_times = times(queue, 200);
  const auto waited = [&](const auto& run) {
    return sample(times(queue, 100),
                  [&] {
                    queue.synchronize();
                    const double start = host_seconds();
                    run();
                    queue.synchronize();
                    return host_seconds() - start;
                  })
        .median();
  };
  const auto many = [&] {
    for (int i = 0; i < many_times; ++i) launch_nothing(queue);
  };
  many();
  peaks.launch = waited(many) / many_times;
  peaks.launch_and_wait = waited([&] { launch_nothing(queue); });

  queue.begin_capture();
  launch_nothing(queue);
  const kernels::CudaGraph one = queue.end_capture();
  queue.begin_capture();
  many();
  const kernels::CudaGraph all = queue.end_capture();
  peaks.replay_and_wait = waited([&] { queue.launch(one); });
  CudaTimer timer(queue);
  const auto timed = [&](const auto& run) {
    return sample(times(queue, 100),
                  [&] {
                    timer.start();
                    run();
                    return timer.stop();
                  })
        .median();
  };
  peaks.recorded_launch = timed([&] { queue.launch(all); }) / many_times;
  peaks.between_two_events = timed([&] { launch_nothing(queue); });
}

}  // namespace

CudaPeaks cuda_peaks(CudaQueue& queue) {
  CudaPeaks peaks;
  const std::shared_ptr<void> out = queue.allocate(sizeof(float));
  peaks.ffma = ffma_peak(queue, static_cast<float*>(out.get()));
  peaks.tf32 = tf32_peak(queue, static_cast<float*>(out.get()));
  peaks.copy = copy_peak(queue);
  launch_costs(queue, peaks);
  return peaks;
}

}  // namespace sidechannel::bench
