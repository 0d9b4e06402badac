// The runtime API: devices, memory, streams, graphs, launches; and the faults that tests ask for.
//
// All streams are one queue of work, in the order in which it was put in: an order that is always
// allowed, and the only one there is with one stream.

#include "emu/runtime.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>

#include "machine.h"

struct CUgraph_st {
  std::vector<std::function<void()>> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<std::function<void()>>> nodes;
};
struct CUstream_st {
  std::unique_ptr<CUgraph_st> capture;  // while the stream captures
  bool capture_invalid = false;
};
struct CUevent_st {};

namespace emu {

namespace {
DeviceModel the_model;  // not inside of the function, which kernels call for every mma
Faults the_faults;
}  // namespace

DeviceModel& device_model() {
  return the_model;
}
Faults& faults() {
  return the_faults;
}

namespace {

constexpr int kRuntimeVersion = 13000;

std::vector<std::function<void()>> pending;
std::vector<cudaStream_t> capturing;
std::map<void*, std::size_t> pinned;  // host memory
std::map<const void*, int> dynamic_limits;
cudaError_t last_error = cudaSuccess;
cudaError_t fault = cudaSuccess;  // sticks until reset()
std::string unreported;           // an Error that no call could throw yet

cudaError_t failed(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

void report_at_exit() {
  if (unreported.empty()) return;
  std::fprintf(stderr, "\nemulated CUDA, an error that nobody waited for: %s\n",
               unreported.c_str());
  std::fflush(nullptr);
  _exit(1);
}

bool counts_down(std::int64_t& n) {
  return n > 0 && --n == 0;
}

// Runs all that waits. Throws the Error of a kernel; what came after it is dropped.
void drain() {
  if (!unreported.empty()) throw Error(std::exchange(unreported, {}));
  if (pending.empty()) return;
  std::vector<std::function<void()>> work;
  work.swap(pending);
  const HeapAccess access;
  for (const std::function<void()>& run : work) {
    if (fault != cudaSuccess) return;
    run();
  }
}

// For calls that do not throw, since destructors make them.
void drain_quietly() {
  try {
    drain();
  } catch (const Error& error) {
    static const int registered = std::atexit(report_at_exit);
    static_cast<void>(registered);
    unreported = error.what();
  }
}

cudaError_t wait() {
  ++counts.synchronizations;
  drain();
  return failed(fault);
}

// What may not happen while any stream captures spoils the capture.
bool refused_by_capture() {
  for (cudaStream_t stream : capturing) stream->capture_invalid = true;
  return !capturing.empty();
}

bool is_capturing(cudaStream_t stream) {
  return stream != nullptr && stream->capture != nullptr;
}

bool is_pinned(const void* p) {
  auto after = pinned.upper_bound(const_cast<void*>(p));
  if (after == pinned.begin()) return false;
  const auto [begin, bytes] = *std::prev(after);
  return static_cast<const char*>(p) < static_cast<const char*>(begin) + bytes;
}

// Device memory must be all of one live allocation, host memory none of it.
void check_range(const char* call, const void* p, std::size_t bytes, bool device) {
  if (on_device(p) != device) {
    throw Error(format("%s: %p is %s memory, which contradicts the kind of the copy", call, p,
                       on_device(p) ? "device" : "host"));
  }
  if (!device) return;
  const Allocation allocation = heap_find(p);
  const auto* const begin = static_cast<const unsigned char*>(p);
  if (allocation.begin == nullptr || begin + bytes > allocation.begin + allocation.bytes) {
    throw Error(format("%s: %zu bytes at %p go beyond the allocation", call, bytes, p));
  }
}

void write_bytes(void* to, const void* from, std::size_t bytes) {
  std::memcpy(to, from, bytes);
  if (note_written != nullptr && on_device(to)) note_written(to, bytes);
}

}  // namespace

cudaError_t machine_error() {
  if (faults().no_driver ||
      (faults().driver_version != 0 && faults().driver_version < kRuntimeVersion)) {
    return cudaErrorInsufficientDriver;
  }
  if (faults().no_device) return cudaErrorNoDevice;
  return fault;
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
  if (is_capturing(stream)) {
    stream->capture->nodes.push_back(std::move(work));
    return cudaSuccess;
  }
  pending.push_back(std::move(work));
  if (options().blocking) drain();
  return failed(fault);
}

void reset() {
  drain_quietly();
  pending.clear();
  unreported.clear();
  capturing.clear();
  dynamic_limits.clear();
  last_error = cudaSuccess;
  fault = cudaSuccess;
  device_model() = DeviceModel();
  faults() = Faults();
  counts = Counters();
  reset_options();
}

// --- Launches
// -------------------------------------------------------------------------------------

cudaError_t set_function_attribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (const cudaError_t error = machine_error()) return failed(error);
  if (faults().no_code) return failed(cudaErrorNoKernelImageForDevice);
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || static_cast<std::size_t>(value) > device_model().shared_per_block) {
      return failed(cudaErrorInvalidValue);
    }
    dynamic_limits[kernel] = value;
  }
  return cudaSuccess;
}

cudaError_t get_function_attributes(cudaFuncAttributes* attributes, const void* kernel) {
  if (const cudaError_t error = machine_error()) return failed(error);
  if (faults().no_code) return failed(cudaErrorNoKernelImageForDevice);
  *attributes = {};
  attributes->maxThreadsPerBlock = static_cast<int>(kMaxThreadsPerBlock);
  const auto limit = dynamic_limits.find(kernel);
  attributes->maxDynamicSharedSizeBytes =
      limit == dynamic_limits.end() ? static_cast<int>(kSharedWithoutAsking) : limit->second;
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

std::size_t volume(dim3 extent) {
  return std::size_t{extent.x} * extent.y * extent.z;
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
  const auto limit = dynamic_limits.find(kernel);
  const std::size_t allowed = limit == dynamic_limits.end()
                                  ? kSharedWithoutAsking
                                  : static_cast<std::size_t>(limit->second);
  return shape.dynamic_shared > allowed ? cudaErrorInvalidValue : cudaSuccess;
}

}  // namespace

cudaError_t max_active_clusters(int* count, const void* kernel, const cudaLaunchConfig_t& config) {
  if (const cudaError_t error = machine_error()) return failed(error);
  const LaunchShape shape = {config.gridDim, config.blockDim, cluster_of(config),
                             config.dynamicSmemBytes};
  if (const cudaError_t error = check_launch(shape, kernel)) return failed(error);
  *count = device_model().multiprocessors / static_cast<int>(volume(shape.cluster));
  return cudaSuccess;
}

void check_kernel_argument(const void* kernel, const void* p) {
  if (p == nullptr || on_device(p)) return;
  throw Error(format("kernel %s is launched with pointer %p, which is not in device memory",
                     kernel_name(kernel).c_str(), p));
}

cudaError_t launch_kernel(const cudaLaunchConfig_t& config,
                          std::shared_ptr<const KernelCall> call) {
  if (current != nullptr) device_fail("a kernel launches a kernel");
  if (const cudaError_t error = machine_error()) return failed(error);
  if (faults().no_code) return failed(cudaErrorNoKernelImageForDevice);
  const LaunchShape shape = {config.gridDim, config.blockDim, cluster_of(config),
                             config.dynamicSmemBytes};
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

using namespace emu;

// --- Errors
// ---------------------------------------------------------------------------------------

namespace {

struct ErrorText {
  cudaError_t error;
  const char* name;
  const char* text;
};
constexpr ErrorText kErrorTexts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
    {cudaErrorInvalidClusterSize, "cudaErrorInvalidClusterSize", "cluster misconfiguration"},
    {cudaErrorUnknown, "cudaErrorUnknown", "unknown error"},
};

const ErrorText& text_of(cudaError_t error) {
  for (const ErrorText& text : kErrorTexts) {
    if (text.error == error) return text;
  }
  return std::end(kErrorTexts)[-1];
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  return text_of(error).name;
}
const char* cudaGetErrorString(cudaError_t error) {
  return text_of(error).text;
}
cudaError_t cudaPeekAtLastError() {
  return fault != cudaSuccess ? fault : last_error;
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = cudaPeekAtLastError();
  last_error = cudaSuccess;
  return error;
}

// --- Devices
// --------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  if (const cudaError_t error = machine_error()) return failed(error);
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return failed(machine_error());
}

cudaError_t cudaSetDevice(int device) {
  if (const cudaError_t error = machine_error()) return failed(error);
  return failed(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (const cudaError_t error = machine_error()) return failed(error);
  if (device != 0) return failed(cudaErrorInvalidDevice);
  const DeviceModel& model = device_model();
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "%s", model.name.c_str());
  properties->totalGlobalMem = model.memory;
  properties->sharedMemPerBlock = kSharedWithoutAsking;
  properties->sharedMemPerBlockOptin = model.shared_per_block;
  properties->sharedMemPerMultiprocessor = model.shared_per_block + 1024;
  properties->regsPerBlock = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = static_cast<int>(kMaxThreadsPerBlock);
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->major = model.compute_capability / 10;
  properties->minor = model.compute_capability % 10;
  properties->multiProcessorCount = model.multiprocessors;
  properties->l2CacheSize = 50 << 20;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (const cudaError_t error = cudaGetDeviceProperties(&p, device)) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = p.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(p.sharedMemPerBlock);
      break;
    case cudaDevAttrWarpSize:
      *value = p.warpSize;
      break;
    case cudaDevAttrClockRate:
      *value = 0;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = p.multiProcessorCount;
      break;
    case cudaDevAttrMemoryClockRate:
      *value = 0;
      break;
    case cudaDevAttrL2CacheSize:
      *value = p.l2CacheSize;
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor:
      *value = p.maxThreadsPerMultiProcessor;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = p.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = p.minor;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(p.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(p.sharedMemPerBlockOptin);
      break;
    default:
      return failed(cudaErrorInvalidValue);
  }
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = faults().no_driver             ? 0
             : faults().driver_version != 0 ? faults().driver_version
                                            : kRuntimeVersion;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kRuntimeVersion;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  if (const cudaError_t error = machine_error()) return failed(error);
  if (refused_by_capture()) return failed(cudaErrorStreamCaptureUnsupported);
  return wait();
}

// --- Memory
// ---------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  *p = nullptr;
  if (const cudaError_t error = machine_error()) return failed(error);
  if (refused_by_capture()) return failed(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return cudaSuccess;
  if (counts_down(faults().fail_allocation) || bytes > device_model().memory ||
      heap_bytes() > device_model().memory - bytes) {
    return failed(cudaErrorMemoryAllocation);
  }
  *p = heap_allocate(bytes);
  if (*p == nullptr) return failed(cudaErrorMemoryAllocation);
  ++counts.allocations;
  return cudaSuccess;
}

cudaError_t cudaFree(void* p) {
  if (p == nullptr) return failed(machine_error());
  if (refused_by_capture()) return failed(cudaErrorStreamCaptureUnsupported);
  drain_quietly();  // as on a GPU, it waits
  if (!heap_free(p)) {
    throw Error(format("cudaFree: %p is no live allocation", p));
  }
  ++counts.frees;
  return failed(machine_error());
}

cudaError_t cudaMallocHost(void** p, std::size_t bytes) {
  *p = nullptr;
  if (const cudaError_t error = machine_error()) return failed(error);
  if (refused_by_capture()) return failed(cudaErrorStreamCaptureUnsupported);
  *p = std::malloc(bytes);
  if (*p == nullptr) return failed(cudaErrorMemoryAllocation);
  std::memset(*p, 0xff, bytes);
  pinned[*p] = bytes;
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) {
  return cudaMallocHost(p, bytes);
}

cudaError_t cudaFreeHost(void* p) {
  if (p == nullptr) return failed(machine_error());
  if (refused_by_capture()) return failed(cudaErrorStreamCaptureUnsupported);
  drain_quietly();
  if (pinned.erase(p) == 0) throw Error(format("cudaFreeHost: %p is no live allocation", p));
  std::free(p);
  return failed(machine_error());
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total) {
  if (const cudaError_t error = machine_error()) return failed(error);
  *total = device_model().memory;
  *free_bytes = *total - std::min(*total, heap_bytes());
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
  if (const cudaError_t error = machine_error()) return failed(error);
  *attributes = {};
  if (on_device(p)) {
    attributes->type = cudaMemoryTypeDevice;
    attributes->devicePointer = const_cast<void*>(p);
  } else if (is_pinned(p)) {
    attributes->type = cudaMemoryTypeHost;
    attributes->hostPointer = const_cast<void*>(p);
  }
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (const cudaError_t error = machine_error()) return failed(error);
  if (bytes == 0) return cudaSuccess;
  const bool to_device = kind == cudaMemcpyDefault
                             ? on_device(to)
                             : kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDefault
                               ? on_device(from)
                               : kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  check_range("cudaMemcpyAsync", to, bytes, to_device);
  check_range("cudaMemcpyAsync", from, bytes, from_device);

  const bool from_pageable = !from_device && !is_pinned(from);
  const bool to_pageable = !to_device && !is_pinned(to);
  if (is_capturing(stream) && (from_pageable || to_pageable)) {
    stream->capture_invalid = true;
    return failed(cudaErrorStreamCaptureUnsupported);
  }
  if (from_pageable) {  // is read before the call returns
    const auto* const begin = static_cast<const unsigned char*>(from);
    return enqueue(stream, [to, staged = std::vector<unsigned char>(begin, begin + bytes)] {
      write_bytes(to, staged.data(), staged.size());
    });
  }
  if (const cudaError_t error =
          enqueue(stream, [to, from, bytes] { write_bytes(to, from, bytes); })) {
    return error;
  }
  return to_pageable ? wait() : cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (const cudaError_t error = machine_error()) return failed(error);
  if (refused_by_capture()) return failed(cudaErrorStreamCaptureUnsupported);
  if (const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr)) return error;
  return on_device(to) && on_device(from) ? cudaSuccess : wait();
}

cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = machine_error()) return failed(error);
  if (bytes == 0) return cudaSuccess;
  check_range("cudaMemsetAsync", p, bytes, true);
  return enqueue(stream, [p, value, bytes] {
    std::memset(p, value, bytes);
    if (note_written != nullptr) note_written(p, bytes);
  });
}

cudaError_t cudaMemset(void* p, int value, std::size_t bytes) {
  if (refused_by_capture()) return failed(cudaErrorStreamCaptureUnsupported);
  return cudaMemsetAsync(p, value, bytes, nullptr);
}

// --- Streams and events
// -----------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  if (const cudaError_t error = machine_error()) return failed(error);
  *stream = new CUstream_st;
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return failed(cudaErrorInvalidResourceHandle);
  drain_quietly();
  capturing.erase(std::remove(capturing.begin(), capturing.end(), stream), capturing.end());
  delete stream;
  return failed(machine_error());
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (const cudaError_t error = machine_error()) return failed(error);
  if (is_capturing(stream)) {
    stream->capture_invalid = true;
    return failed(cudaErrorStreamCaptureUnsupported);
  }
  return wait();
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (const cudaError_t error = machine_error()) return failed(error);
  if (is_capturing(stream)) {
    stream->capture_invalid = true;
    return failed(cudaErrorStreamCaptureUnsupported);
  }
  return pending.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
  return failed(machine_error());  // work runs in the order of the calls anyway
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = nullptr;
  if (const cudaError_t error = machine_error()) return failed(error);
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return failed(machine_error());
}

cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  return failed(machine_error());
}

cudaError_t cudaEventSynchronize(cudaEvent_t) {
  if (const cudaError_t error = machine_error()) return failed(error);
  if (refused_by_capture()) return failed(cudaErrorStreamCaptureUnsupported);
  return wait();
}

cudaError_t cudaEventQuery(cudaEvent_t) {
  if (const cudaError_t error = machine_error()) return failed(error);
  return pending.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0;
  return failed(cudaErrorNotSupported);
}

// --- Graphs
// ---------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (const cudaError_t error = machine_error()) return failed(error);
  if (stream == nullptr || is_capturing(stream)) return failed(cudaErrorInvalidValue);
  stream->capture = std::make_unique<CUgraph_st>();
  stream->capture_invalid = false;
  capturing.push_back(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  if (!is_capturing(stream)) return failed(cudaErrorInvalidValue);
  capturing.erase(std::remove(capturing.begin(), capturing.end(), stream), capturing.end());
  std::unique_ptr<CUgraph_st> captured = std::move(stream->capture);
  if (const cudaError_t error = machine_error()) return failed(error);
  if (stream->capture_invalid) return failed(cudaErrorStreamCaptureInvalidated);
  *graph = captured.release();
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = !is_capturing(stream)     ? cudaStreamCaptureStatusNone
            : stream->capture_invalid ? cudaStreamCaptureStatusInvalidated
                                      : cudaStreamCaptureStatusActive;
  return failed(machine_error());
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = nullptr;
  if (const cudaError_t error = machine_error()) return failed(error);
  if (graph == nullptr) return failed(cudaErrorInvalidValue);
  *exec =
      new CUgraphExec_st{std::make_shared<const std::vector<std::function<void()>>>(graph->nodes)};
  return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, std::size_t* count) {
  if (nodes != nullptr) return failed(cudaErrorNotSupported);
  *count = graph->nodes.size();
  return failed(machine_error());
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  if (const cudaError_t error = machine_error()) return failed(error);
  if (exec == nullptr) return failed(cudaErrorInvalidValue);
  ++counts.graph_launches;
  return enqueue(stream, [nodes = exec->nodes] {
    for (const std::function<void()>& node : *nodes) {
      if (fault == cudaSuccess) node();
    }
  });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
  return failed(machine_error());
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return failed(machine_error());
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return failed(machine_error());
}
