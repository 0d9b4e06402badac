#pragma once

// The one way to launch a kernel; `<<<>>>` stands nowhere. For .cu files.

#include <cuda_runtime.h>
#include <nvtx3/nvToolsExt.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <utility>

#include "kernels/cuda/device/dependency.cuh"
#include "kernels/cuda_queue.h"

namespace sidechannel::kernels {

struct Grid {
  Grid(std::int64_t x_ = 1, std::int64_t y_ = 1, std::int64_t z_ = 1) : x(x_), y(y_), z(z_) {}

  std::int64_t x, y, z;  // blocks
};

struct Launch {
  Grid grid;
  dim3 block;
  std::size_t dynamic_shared = 0;  // bytes
  dim3 cluster = dim3(1, 1, 1);    // blocks that can reach each other's shared memory (sm_90)
};

// Lets a kernel have so much dynamic shared memory, beyond what every device has. What it may have
// is one number for the whole process, and never lowered: another queue, in another thread, may be
// about to launch it with more.
template <class... Params>
cudaError_t allow_dynamic_shared(void (*kernel)(Params...), std::size_t bytes) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  const auto wanted = static_cast<int>(bytes);
  if (error != cudaSuccess || attributes.maxDynamicSharedSizeBytes >= wanted) return error;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, wanted);
}

// Launches `kernel` on the queue's stream, or records it while the queue captures. Returns before
// the kernel is done. Nothing where the grid is empty: there is no work. `operation` is a literal:
// what a message about a fault calls this launch. CudaError where the grid has more blocks than a
// device counts, or the runtime refuses the launch for another reason. Profilers show it within a
// range (NVTX) of that name.
template <class... Params, class... Args>
void launch(CudaQueue& queue, const char* operation, void (*kernel)(Params...), const Launch& how,
            Args&&... args) {
  if (how.grid.x == 0 || how.grid.y == 0 || how.grid.z == 0) return;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(how.grid.x), static_cast<unsigned>(how.grid.y),
                        static_cast<unsigned>(how.grid.z));
  config.blockDim = how.block;
  config.dynamicSmemBytes = how.dynamic_shared;
  config.stream = queue.stream();

  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (how.cluster.x * how.cluster.y * how.cluster.z > 1) {
    cudaLaunchAttribute& cluster = attributes[config.numAttrs++];
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = how.cluster.x;
    cluster.val.clusterDim.y = how.cluster.y;
    cluster.val.clusterDim.z = how.cluster.z;
  }
  if (queue.overlaps()) {
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }

  // More than what every device has must be asked for, kernel by kernel.
  constexpr std::size_t kSharedWithoutAsking = 48 * 1024;
  constexpr std::int64_t kMost = std::numeric_limits<int>::max();
  cudaError_t error = std::max({how.grid.x, how.grid.y, how.grid.z}) > kMost
                          ? cudaErrorInvalidConfiguration
                          : cudaSuccess;
  if (error == cudaSuccess && how.dynamic_shared > kSharedWithoutAsking) {
    error = allow_dynamic_shared(kernel, how.dynamic_shared);
  }
  if (error == cudaSuccess) {
    nvtxRangePushA(operation);
    error = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
    nvtxRangePop();
  }

  CudaLaunch record;
  record.operation = operation;
  record.grid = {how.grid.x, how.grid.y, how.grid.z};
  record.block = {how.block.x, how.block.y, how.block.z};
  record.dynamic_shared = how.dynamic_shared;
  record.cluster = how.cluster.x * how.cluster.y * how.cluster.z;
  queue.launched(record, error);
}

}  // namespace sidechannel::kernels
