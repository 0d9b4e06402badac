#pragma once

// The part of the CUDA runtime API that the backend uses, with CUDA's names and numbers.
//
// Work is asynchronous as on a GPU: launches, copies and fills wait in the stream until somebody
// waits for them, and only then run. So a result that is read too early is the old one, and host
// memory that an asynchronous copy still needs must live until then.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emu/device.h"

#define CUDART_VERSION 13000

// Names, numbers and what cudaGetErrorString says.
#define EMU_CUDA_ERRORS(X)                                                                      \
  X(cudaSuccess, 0, "no error")                                                                 \
  X(cudaErrorInvalidValue, 1, "invalid argument")                                               \
  X(cudaErrorMemoryAllocation, 2, "out of memory")                                              \
  X(cudaErrorInvalidConfiguration, 9, "invalid configuration argument")                         \
  X(cudaErrorInsufficientDriver, 35,                                                            \
    "CUDA driver version is insufficient for CUDA runtime version")                             \
  X(cudaErrorInvalidDeviceFunction, 98, "invalid device function")                              \
  X(cudaErrorNoDevice, 100, "no CUDA-capable device is detected")                               \
  X(cudaErrorInvalidDevice, 101, "invalid device ordinal")                                      \
  X(cudaErrorNoKernelImageForDevice, 209,                                                       \
    "no kernel image is available for execution on the device")                                 \
  X(cudaErrorInvalidResourceHandle, 400, "invalid resource handle")                             \
  X(cudaErrorNotReady, 600, "device not ready")                                                 \
  X(cudaErrorIllegalAddress, 700, "an illegal memory access was encountered")                   \
  X(cudaErrorNotSupported, 801, "operation not supported")                                      \
  X(cudaErrorStreamCaptureUnsupported, 900, "operation not permitted when stream is capturing") \
  X(cudaErrorStreamCaptureInvalidated, 901,                                                     \
    "operation failed due to a previous error during capture")                                  \
  X(cudaErrorStreamCaptureWrongThread, 908,                                                     \
    "attempt to terminate a thread-local capture sequence from another thread")                 \
  X(cudaErrorInvalidClusterSize, 912, "cluster misconfiguration")                               \
  X(cudaErrorUnknown, 999, "unknown error")
#define EMU_CUDA_ERROR(name, number, text) name = number,
enum cudaError { EMU_CUDA_ERRORS(EMU_CUDA_ERROR) };
#undef EMU_CUDA_ERROR
using cudaError_t = cudaError;

using cudaStream_t = struct CUstream_st*;
using cudaEvent_t = struct CUevent_st*;
using cudaGraph_t = struct CUgraph_st*;
using cudaGraphExec_t = struct CUgraphExec_st*;

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError();

// --- Devices -------------------------------------------------------------------------------------

struct cudaDeviceProp {
  char name[256];
  std::size_t totalGlobalMem;
  std::size_t sharedMemPerBlock;
  std::size_t sharedMemPerBlockOptin;
  int warpSize;
  int maxThreadsPerBlock;
  int major;
  int minor;
  int multiProcessorCount;
  int l2CacheSize;
};
enum cudaDeviceAttr { cudaDevAttrL2CacheSize = 38 };
cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaDeviceSynchronize();

// --- Memory --------------------------------------------------------------------------------------

enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
};

cudaError_t cudaMalloc(void** p, std::size_t bytes);
cudaError_t cudaFree(void* p);
cudaError_t cudaMallocHost(void** p, std::size_t bytes);
cudaError_t cudaFreeHost(void* p);
template <class T>
cudaError_t cudaMalloc(T** p, std::size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(p), bytes);
}
template <class T>
cudaError_t cudaMallocHost(T** p, std::size_t bytes) {
  return cudaMallocHost(reinterpret_cast<void**>(p), bytes);
}
cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total);
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream = nullptr);
cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream = nullptr);

// --- Streams, events, graphs ---------------------------------------------------------------------

constexpr unsigned cudaStreamNonBlocking = 1;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);

cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
// cudaErrorNotSupported: no time under emulation means anything.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                 unsigned long long flags = 0);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);

// --- Launches ------------------------------------------------------------------------------------

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaFuncAttributes {
  int maxThreadsPerBlock;
  int maxDynamicSharedSizeBytes;
};
enum cudaLaunchAttributeID {
  cudaLaunchAttributeClusterDimension = 4,
  cudaLaunchAttributeProgrammaticStreamSerialization = 6,  // runs launches in order all the same
};
struct cudaLaunchAttributeValue {
  struct {
    unsigned x, y, z;
  } clusterDim;
  int programmaticStreamSerializationAllowed;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace emu {

// A kernel with its arguments, by value: a launch runs later than it is asked for, and a graph's
// launches again and again.
class KernelCall {
 public:
  virtual ~KernelCall() = default;
  // Runs one thread of the kernel.
  virtual void run_thread() const = 0;
  // The function, and where the object lies, which the kernel may read.
  virtual const void* function() const = 0;
  virtual std::size_t bytes() const = 0;
};

template <class... Params>
class KernelCallOf final : public KernelCall {
 public:
  template <class... Args>
  explicit KernelCallOf(void (*kernel)(Params...), Args&&... args)
      : kernel_(kernel), arguments_(std::forward<Args>(args)...) {}
  void run_thread() const override { std::apply(kernel_, arguments_); }
  const void* function() const override { return reinterpret_cast<const void*>(kernel_); }
  std::size_t bytes() const override { return sizeof *this; }

  // Calls f(p) for each argument that is a pointer.
  template <class F>
  void for_each_pointer(F&& f) const {
    std::apply([&](const auto&... argument) { (visit_pointer(f, argument), ...); }, arguments_);
  }

 private:
  template <class F, class T>
  static void visit_pointer(F& f, const T& argument) {
    if constexpr (std::is_pointer_v<T>) f(static_cast<const void*>(argument));
  }
  void (*kernel_)(Params...);
  std::tuple<std::decay_t<Params>...> arguments_;
};

cudaError_t launch_kernel(const cudaLaunchConfig_t& config, std::shared_ptr<const KernelCall> call);
// An Error where `p` is neither null nor in device memory.
void check_kernel_argument(const void* kernel, const void* p);
cudaError_t set_function_attribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t get_function_attributes(cudaFuncAttributes* attributes, const void* kernel);
cudaError_t max_active_clusters(int* count, const void* kernel, const cudaLaunchConfig_t& config);

}  // namespace emu

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  auto call = std::make_shared<emu::KernelCallOf<Params...>>(kernel, std::forward<Args>(args)...);
  call->for_each_pointer([&](const void* p) { emu::check_kernel_argument(call->function(), p); });
  return emu::launch_kernel(*config, std::move(call));
}
template <class... Params>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute attribute,
                                 int value) {
  return emu::set_function_attribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <class... Params>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*kernel)(Params...)) {
  return emu::get_function_attributes(attributes, reinterpret_cast<const void*>(kernel));
}
template <class... Params>
cudaError_t cudaOccupancyMaxActiveClusters(int* count, void (*kernel)(Params...),
                                           const cudaLaunchConfig_t* config) {
  return emu::max_active_clusters(count, reinterpret_cast<const void*>(kernel), *config);
}
