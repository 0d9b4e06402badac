#pragma once

// The one way to launch a kernel; `<<<>>>` stands nowhere. For .cu files.

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "kernels/cuda/device/dependency.cuh"
#include "kernels/cuda_queue.h"

namespace sidechannel::kernels {

struct Launch {
  dim3 grid;
  dim3 block;
  std::size_t dynamic_shared = 0;  // bytes
  dim3 cluster = dim3(1, 1, 1);    // blocks that can reach each other's shared memory (sm_90)
};

// Whether a launch may begin while the one before it ends (SIDECHANNEL_OVERLAP=on, sm_90): its
// blocks are there, and wait, when their turn comes (device/dependency.cuh).
bool launches_overlap(const CudaQueue& queue);

// Launches `kernel` on the queue's stream, or records it while the queue captures. Returns before
// the kernel is done. `operation` is a literal: what a message about a fault calls this launch.
// CudaError where the runtime refuses the launch.
template <class... Params, class... Args>
void launch(CudaQueue& queue, const char* operation, void (*kernel)(Params...), const Launch& how,
            Args&&... args) {
  cudaLaunchConfig_t config = {};
  config.gridDim = how.grid;
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
  if (launches_overlap(queue)) {
    cudaLaunchAttribute& early = attributes[config.numAttrs++];
    early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    early.val.programmaticStreamSerializationAllowed = 1;
  }

  // More than what every device has must be asked for, kernel by kernel.
  constexpr std::size_t kSharedWithoutAsking = 48 * 1024;
  cudaError_t error = cudaSuccess;
  if (how.dynamic_shared > kSharedWithoutAsking) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 static_cast<int>(how.dynamic_shared));
  }
  if (error == cudaSuccess)
    error = cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);

  CudaLaunch record;
  record.operation = operation;
  record.grid = {how.grid.x, how.grid.y, how.grid.z};
  record.block = {how.block.x, how.block.y, how.block.z};
  record.dynamic_shared = how.dynamic_shared;
  record.cluster = how.cluster.x * how.cluster.y * how.cluster.z;
  queue.launched(record, error);
}

}  // namespace sidechannel::kernels
