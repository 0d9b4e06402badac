// Launches: what kernels were allowed, what a launch may be, and what becomes of it.

#include <map>

#include "emu/runtime.h"
#include "machine.h"

namespace emu {

namespace {

std::map<const void*, int> dynamic_limits;

int dynamic_limit(const void* kernel) {
  const auto limit = dynamic_limits.find(kernel);
  return limit == dynamic_limits.end() ? static_cast<int>(kSharedWithoutAsking) : limit->second;
}

}  // namespace

void forget_function_attributes() {
  dynamic_limits.clear();
}

cudaError_t set_function_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const Locked locked;
  if (const cudaError_t error = machine_error()) return failed(error);
  if (faults().no_code) return failed(cudaErrorNoKernelImageForDevice);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<std::size_t>(value) > device_model().shared_per_block) {
    return failed(cudaErrorInvalidValue);
  }
  dynamic_limits[kernel] = value;
  return cudaSuccess;
}

cudaError_t get_function_attributes(cudaFuncAttributes* attributes, const void* kernel) {
  const Locked locked;
  if (const cudaError_t error = machine_error()) return failed(error);
  if (faults().no_code) return failed(cudaErrorNoKernelImageForDevice);
  *attributes = {static_cast<int>(kMaxThreadsPerBlock), dynamic_limit(kernel)};
  return cudaSuccess;
}

namespace {

dim3 cluster_of(const cudaLaunchConfig_t& config) {
  for (unsigned i = 0; i < config.numAttrs; ++i) {
    if (config.attrs[i].id != cudaLaunchAttributeClusterDimension) continue;
    const auto& cluster = config.attrs[i].val.clusterDim;
    return {cluster.x, cluster.y, cluster.z};
  }
  return {1, 1, 1};
}

LaunchShape shape_of(const cudaLaunchConfig_t& config) {
  return {config.gridDim, config.blockDim, cluster_of(config), config.dynamicSmemBytes};
}

cudaError_t check_launch(const LaunchShape& shape, const void* kernel) {
  const dim3 grid = shape.grid;
  const dim3 block = shape.block;
  const dim3 clusters = shape.cluster;
  if (volume(block) < 1 || volume(block) > kMaxThreadsPerBlock || block.z > 64) {
    return cudaErrorInvalidConfiguration;
  }
  if (volume(grid) < 1 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
    return cudaErrorInvalidConfiguration;
  }
  if (volume(clusters) != 1) {
    if (device_model().compute_capability < 90) return cudaErrorNotSupported;
    if (volume(clusters) < 1 || volume(clusters) > kMaxBlocksPerCluster ||
        grid.x % clusters.x != 0 || grid.y % clusters.y != 0 || grid.z % clusters.z != 0) {
      return cudaErrorInvalidClusterSize;
    }
  }
  return shape.dynamic_shared > static_cast<std::size_t>(dynamic_limit(kernel))
             ? cudaErrorInvalidValue
             : cudaSuccess;
}

}  // namespace

cudaError_t max_active_clusters(int* count, const void* kernel, const cudaLaunchConfig_t& config) {
  const Locked locked;
  if (const cudaError_t error = machine_error()) return failed(error);
  const LaunchShape shape = shape_of(config);
  if (const cudaError_t error = check_launch(shape, kernel)) return failed(error);
  *count = device_model().multiprocessors / static_cast<int>(volume(shape.cluster));
  return cudaSuccess;
}

void check_kernel_argument(const void* kernel, const void* p) {
  const Locked locked;
  if (p == nullptr || on_device(p)) return;
  throw Error(format("kernel %s is launched with pointer %p, which is not in device memory",
                     kernel_name(kernel).c_str(), p));
}

cudaError_t launch_kernel(const cudaLaunchConfig_t& config,
                          std::shared_ptr<const KernelCall> call) {
  const Locked locked;
  if (current != nullptr) device_fail("a kernel launches a kernel");
  if (const cudaError_t error = machine_error()) return failed(error);
  if (faults().no_code) return failed(cudaErrorNoKernelImageForDevice);
  const LaunchShape shape = shape_of(config);
  if (const cudaError_t error = check_launch(shape, call->function())) return failed(error);
  return enqueue(config.stream, [shape, call = std::move(call)] {
    if (counts_down(faults().fail_launch)) {
      fault = cudaErrorIllegalAddress;
    } else {
      run_launch(shape, *call);
    }
  });
}

}  // namespace emu
