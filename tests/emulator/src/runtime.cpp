// The runtime API: devices, memory, streams, graphs, launches; and the faults that tests ask for.
//
// All streams are one queue of work, in the order in which it was put in: an order that is always
// allowed, and the only one there is with one stream.

#include "emu/runtime.h"

#include <unistd.h>

#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>

#include "machine.h"

struct CUgraph_st {
  std::vector<std::function<void()>> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<std::function<void()>>> nodes;
};
struct CUstream_st {
  std::unique_ptr<CUgraph_st> capture;  // while the stream captures,
  std::thread::id captured_by;          // since this thread has said so
  bool capture_invalid = false;
};
struct CUevent_st {};

namespace emu {

namespace {
DeviceModel the_model;  // not inside of the function, which kernels call for every mma

// Of a whole program; a test sets faults() itself.
Faults faults_of_environment() {
  const auto number = [](const char* name) {
    const char* const value = std::getenv(name);
    return value == nullptr ? 0 : std::strtoll(value, nullptr, 10);
  };
  Faults faults;
  faults.fail_allocation = number("SIDECHANNEL_EMULATOR_FAIL_ALLOCATION");
  faults.fail_launch = number("SIDECHANNEL_EMULATOR_FAIL_LAUNCH");
  return faults;
}

Faults the_faults = faults_of_environment();
}  // namespace

namespace {
std::mutex turns_mutex;
std::condition_variable next_turn;
std::uint64_t turns_taken = 0;
std::uint64_t turn = 0;
thread_local int turns_held = 0;  // by calls that call each other
}  // namespace

Locked::Locked() {
  if (turns_held++ > 0) return;
  std::unique_lock<std::mutex> lock(turns_mutex);
  next_turn.wait(lock, [mine = turns_taken++] { return turn == mine; });
}

Locked::~Locked() {
  if (--turns_held > 0) return;
  const std::lock_guard<std::mutex> lock(turns_mutex);
  ++turn;
  next_turn.notify_all();
}

DeviceModel& device_model() {
  return the_model;
}
Faults& faults() {
  return the_faults;
}

cudaError_t fault = cudaSuccess;

namespace {

constexpr int kRuntimeVersion = 13000;

std::vector<std::function<void()>> pending;
std::vector<cudaStream_t> capturing;
std::map<void*, std::size_t> pinned;  // host memory
thread_local cudaError_t last_error = cudaSuccess;
std::string unreported;  // an Error that no call could throw yet

}  // namespace

cudaError_t failed(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

namespace {

void report_at_exit() {
  if (unreported.empty()) return;
  std::fprintf(stderr, "\nemulated CUDA, an error that nobody waited for: %s\n",
               unreported.c_str());
  std::fflush(nullptr);
  _exit(1);
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
  drain();
  return failed(fault);
}

// What a thread may not do while a stream captures for it spoils the capture. What other threads do
// is none of its business (cudaStreamCaptureModeThreadLocal).
cudaError_t check_no_capture() {
  bool captures = false;
  for (cudaStream_t stream : capturing) {
    if (stream->captured_by != std::this_thread::get_id()) continue;
    stream->capture_invalid = true;
    captures = true;
  }
  return captures ? failed(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

// For calls that need a healthy machine, too.
cudaError_t check_machine_and_no_capture() {
  const cudaError_t error = failed(machine_error());
  return error != cudaSuccess ? error : check_no_capture();
}

bool is_capturing(cudaStream_t stream) {
  return stream != nullptr && stream->capture != nullptr;
}

// What this very stream cannot record spoils its capture.
cudaError_t refused_by_capture(cudaStream_t stream) {
  stream->capture_invalid = true;
  return failed(cudaErrorStreamCaptureUnsupported);
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
  if (!heap_holds(p, bytes)) {
    throw Error(format("%s: %zu bytes at %p go beyond the allocation", call, bytes, p));
  }
}

void write_bytes(void* to, const void* from, std::size_t bytes) {
  std::memcpy(to, from, bytes);
  if (note_written != nullptr && on_device(to)) note_written(to, bytes);
}

}  // namespace

bool counts_down(std::int64_t& n) {
  return n > 0 && --n == 0;
}

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
  forget_function_attributes();
  last_error = cudaSuccess;
  fault = cudaSuccess;
  device_model() = DeviceModel();
  faults() = Faults();
  counts = Counters();
  reset_options();
}

}  // namespace emu

using namespace emu;

// --- Errors --------------------------------------------------------------------------------------

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
#define EMU_CUDA_ERROR(name, number, text) \
  case name:                               \
    return text;
    EMU_CUDA_ERRORS(EMU_CUDA_ERROR)
#undef EMU_CUDA_ERROR
  }
  return "unrecognized error code";
}
cudaError_t cudaGetLastError() {
  const Locked locked;
  const cudaError_t error = fault != cudaSuccess ? fault : last_error;
  last_error = cudaSuccess;
  return error;
}

// --- Devices -------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  const Locked locked;
  *count = 0;
  if (const cudaError_t error = machine_error()) return failed(error);
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  const Locked locked;
  if (const cudaError_t error = machine_error()) return failed(error);
  return failed(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  const Locked locked;
  if (const cudaError_t error = machine_error()) return failed(error);
  if (device != 0) return failed(cudaErrorInvalidDevice);
  const DeviceModel& model = device_model();
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "%s", model.name.c_str());
  properties->totalGlobalMem = model.memory;
  properties->sharedMemPerBlock = kSharedWithoutAsking;
  properties->sharedMemPerBlockOptin = model.shared_per_block;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = static_cast<int>(kMaxThreadsPerBlock);
  properties->major = model.compute_capability / 10;
  properties->minor = model.compute_capability % 10;
  properties->multiProcessorCount = model.multiprocessors;
  properties->l2CacheSize = 50 << 20;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const Locked locked;
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device)) return error;
  if (attribute != cudaDevAttrL2CacheSize) return failed(cudaErrorInvalidValue);
  *value = properties.l2CacheSize;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  const Locked locked;
  *version = faults().no_driver             ? 0
             : faults().driver_version != 0 ? faults().driver_version
                                            : kRuntimeVersion;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  const Locked locked;
  *version = kRuntimeVersion;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  const Locked locked;
  if (const cudaError_t error = check_machine_and_no_capture()) return error;
  return wait();
}

// --- Memory --------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  const Locked locked;
  *p = nullptr;
  if (const cudaError_t error = check_machine_and_no_capture()) return error;
  if (bytes == 0) return cudaSuccess;
  if (counts_down(faults().fail_allocation) || bytes > device_model().memory ||
      allocated_bytes() > device_model().memory - bytes) {
    return failed(cudaErrorMemoryAllocation);
  }
  *p = heap_allocate(bytes);
  if (*p == nullptr) return failed(cudaErrorMemoryAllocation);
  return cudaSuccess;
}

namespace {

// As on a GPU, to release memory waits. take() says whether there was such an allocation.
template <class Take>
cudaError_t release(const char* call, void* p, Take&& take) {
  if (p == nullptr) return failed(machine_error());
  if (const cudaError_t error = check_no_capture()) return error;
  drain_quietly();
  if (!take()) throw Error(format("%s: %p is no live allocation", call, p));
  return failed(machine_error());
}

}  // namespace

cudaError_t cudaFree(void* p) {
  const Locked locked;
  return release("cudaFree", p, [p] { return heap_free(p); });
}

cudaError_t cudaMallocHost(void** p, std::size_t bytes) {
  const Locked locked;
  *p = nullptr;
  if (const cudaError_t error = check_machine_and_no_capture()) return error;
  *p = std::malloc(bytes);
  if (*p == nullptr) return failed(cudaErrorMemoryAllocation);
  std::memset(*p, 0xff, bytes);
  pinned[*p] = bytes;
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* p) {
  const Locked locked;
  return release("cudaFreeHost", p, [p] {
    const bool freed = pinned.erase(p) > 0;
    if (freed) std::free(p);
    return freed;
  });
}

cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total) {
  const Locked locked;
  if (const cudaError_t error = machine_error()) return failed(error);
  *total = device_model().memory;
  *free_bytes = *total - std::min(*total, allocated_bytes());
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const Locked locked;
  if (const cudaError_t error = machine_error()) return failed(error);
  if (bytes == 0) return cudaSuccess;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  check_range("cudaMemcpyAsync", to, bytes, to_device);
  check_range("cudaMemcpyAsync", from, bytes, from_device);

  const bool from_pageable = !from_device && !is_pinned(from);
  const bool to_pageable = !to_device && !is_pinned(to);
  if (is_capturing(stream) && (from_pageable || to_pageable)) return refused_by_capture(stream);
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
  const Locked locked;
  if (const cudaError_t error = check_machine_and_no_capture()) return error;
  if (const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr)) return error;
  return on_device(to) && on_device(from) ? cudaSuccess : wait();
}

cudaError_t cudaMemsetAsync(void* p, int value, std::size_t bytes, cudaStream_t stream) {
  const Locked locked;
  if (const cudaError_t error = machine_error()) return failed(error);
  if (bytes == 0) return cudaSuccess;
  check_range("cudaMemsetAsync", p, bytes, true);
  return enqueue(stream, [p, value, bytes] {
    std::memset(p, value, bytes);
    if (note_written != nullptr) note_written(p, bytes);
  });
}

// --- Streams and events --------------------------------------------------------------------------

namespace {

template <class T>
cudaError_t create(T** object) {
  *object = nullptr;
  if (const cudaError_t error = machine_error()) return failed(error);
  *object = new T;
  return cudaSuccess;
}

}  // namespace

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const Locked locked;
  return create(stream);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Locked locked;
  if (stream == nullptr) return failed(cudaErrorInvalidResourceHandle);
  drain_quietly();
  capturing.erase(std::remove(capturing.begin(), capturing.end(), stream), capturing.end());
  delete stream;
  return failed(machine_error());
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Locked locked;
  if (const cudaError_t error = machine_error()) return failed(error);
  if (is_capturing(stream)) return refused_by_capture(stream);
  return wait();
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  const Locked locked;
  if (const cudaError_t error = machine_error()) return failed(error);
  if (is_capturing(stream)) return refused_by_capture(stream);
  return pending.empty() ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  const Locked locked;
  return create(event);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Locked locked;
  delete event;
  return failed(machine_error());
}

cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
  const Locked locked;
  return failed(machine_error());
}

cudaError_t cudaEventSynchronize(cudaEvent_t) {
  const Locked locked;
  if (const cudaError_t error = check_machine_and_no_capture()) return error;
  return wait();
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  const Locked locked;
  *milliseconds = 0;
  return failed(cudaErrorNotSupported);
}

// --- Graphs --------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Locked locked;
  if (const cudaError_t error = machine_error()) return failed(error);
  if (stream == nullptr || is_capturing(stream)) return failed(cudaErrorInvalidValue);
  stream->capture = std::make_unique<CUgraph_st>();
  stream->captured_by = std::this_thread::get_id();
  stream->capture_invalid = false;
  capturing.push_back(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Locked locked;
  *graph = nullptr;
  if (!is_capturing(stream)) return failed(cudaErrorInvalidValue);
  if (stream->captured_by != std::this_thread::get_id()) {
    return failed(cudaErrorStreamCaptureWrongThread);
  }
  capturing.erase(std::remove(capturing.begin(), capturing.end(), stream), capturing.end());
  std::unique_ptr<CUgraph_st> captured = std::move(stream->capture);
  if (const cudaError_t error = machine_error()) return failed(error);
  if (stream->capture_invalid) return failed(cudaErrorStreamCaptureInvalidated);
  *graph = captured.release();
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  const Locked locked;
  *exec = nullptr;
  if (const cudaError_t error = machine_error()) return failed(error);
  if (graph == nullptr) return failed(cudaErrorInvalidValue);
  *exec =
      new CUgraphExec_st{std::make_shared<const std::vector<std::function<void()>>>(graph->nodes)};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  const Locked locked;
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
  const Locked locked;
  return failed(machine_error());
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const Locked locked;
  delete graph;
  return failed(machine_error());
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  const Locked locked;
  delete exec;
  return failed(machine_error());
}
