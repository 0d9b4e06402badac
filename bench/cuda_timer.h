#pragma once

// Time on a queue's device, between two events on its stream.

#include <cuda_runtime_api.h>

#include "kernels/cuda_queue.h"

namespace sidechannel::bench {

// How often something is timed. Emulated, no time means anything: once.
inline int times(const kernels::CudaQueue& queue, int count) {
  return queue.info().emulated ? 1 : count;
}

class CudaTimer {
 public:
  explicit CudaTimer(const kernels::CudaQueue& queue)
      : stream_(queue.stream()), emulated_(queue.info().emulated) {
    check(cudaEventCreate(&start_));
    check(cudaEventCreate(&stop_));
  }
  ~CudaTimer() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
  }
  CudaTimer(const CudaTimer&) = delete;
  CudaTimer& operator=(const CudaTimer&) = delete;

  void start() { check(cudaEventRecord(start_, stream_)); }
  // Waits for everything since start() and returns how long the device took, in seconds.
  double stop() {
    check(cudaEventRecord(stop_, stream_));
    check(cudaEventSynchronize(stop_));
    if (emulated_) return 1e-3;  // its events have no time
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, start_, stop_));
    return 1e-3 * static_cast<double>(milliseconds);
  }

 private:
  static void check(cudaError_t error) {
    if (error != cudaSuccess) throw kernels::CudaError(cudaGetErrorString(error));
  }
  cudaStream_t stream_;
  bool emulated_;
  cudaEvent_t start_ = nullptr;
  cudaEvent_t stop_ = nullptr;
};

}  // namespace sidechannel::bench
