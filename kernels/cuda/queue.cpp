#include <cublasLt.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>
#include <utility>

#include "kernels/cuda/device_code.h"
#include "kernels/cuda_queue.h"

namespace sidechannel::kernels {
namespace {

std::string text_of(int error) {
  return cudaGetErrorString(static_cast<cudaError_t>(error));
}

// An error that does not stick is also returned by the next call that asks for the last one.
std::string take_error(int error) {
  cudaGetLastError();
  return text_of(error);
}

// 13020 as "13.2".
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string bytes_text(std::size_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1024 && unit + 1 < std::size(kUnits); ++unit) value /= 1024;
  char text[64];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text;
}

template <class T>
std::string extent_text(const std::array<T, 3>& extent) {
  std::string text = std::to_string(extent[0]);
  if (extent[1] > 1 || extent[2] > 1) text += " x " + std::to_string(extent[1]);
  if (extent[2] > 1) text += " x " + std::to_string(extent[2]);
  return text;
}

// "conv1d_forward (grid 19 x 32, block 128, 40960 bytes of dynamic shared memory)"
std::string launch_text(const CudaLaunch& launch) {
  if (launch.recorded > 0) {
    return "a recorded step of " + std::to_string(launch.recorded) + " launches";
  }
  if (launch.block[0] == 0) return launch.operation;  // a library's
  std::string text = launch.operation;
  text += " (grid " + extent_text(launch.grid) + ", block " + extent_text(launch.block);
  if (launch.cluster > 1) text += ", clusters of " + std::to_string(launch.cluster);
  if (launch.dynamic_shared > 0) {
    text += ", " + std::to_string(launch.dynamic_shared) + " bytes of dynamic shared memory";
  }
  return text + ")";
}

// Why there is no device to be had; empty when there is one.
std::string why_no_device(int* count) {
  *count = 0;
  const cudaError_t error = cudaGetDeviceCount(count);
  if (error == cudaSuccess && *count > 0) return {};
  cudaGetLastError();
  int driver = 0;
  int runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return "there is no NVIDIA driver";
  if (error == cudaErrorInsufficientDriver) {
    return "the NVIDIA driver is too old: it supports CUDA " + version_text(driver) +
           ", and this program needs " + version_text(runtime);
  }
  if (error == cudaErrorNoDevice || error == cudaSuccess) return "the driver finds no GPU";
  return text_of(error);
}

CudaDeviceInfo describe(int device) {
  CudaDeviceInfo info;
  info.index = device;
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, device);
  if (error != cudaSuccess) throw CudaError("CUDA: " + take_error(error));
  info.name = properties.name;
  info.compute_capability = 10 * properties.major + properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.memory = properties.totalGlobalMem;
  info.shared_per_block = properties.sharedMemPerBlockOptin;
  cudaDriverGetVersion(&info.driver_version);
  cudaRuntimeGetVersion(&info.runtime_version);
  info.emulated = std::string_view(SIDECHANNEL_CUDA_ARCHITECTURES) == "emulated";
  return info;
}

// One allocation at a time in a process: to say what would fit, one that failed takes for a moment
// all that there is, which no other queue may find missing.
std::mutex allocation_mutex;

bool environment_says_blocking() {
  const char* const value = std::getenv("CUDA_LAUNCH_BLOCKING");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

}  // namespace

// Shared by the queue and everything that it gave out, whichever goes last.
struct CudaQueue::Memory {
  std::size_t held = 0;
  std::size_t peak = 0;
  bool capturing = false;
  std::vector<void*> released;  // while capturing, when nothing may be freed

  void release(void* p, std::size_t bytes) {
    held -= bytes;
    if (capturing) {
      released.push_back(p);
    } else {
      cudaFree(p);  // what it could report, the next wait reports
    }
  }
  void end_capture() {
    capturing = false;
    for (void* p : released) cudaFree(p);
    released.clear();
  }
};

struct CudaGraph::Recording {
  cudaGraphExec_t exec = nullptr;
  std::shared_ptr<void> scratch;
  std::int64_t launches = 0;

  Recording() = default;
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  ~Recording() {
    if (exec != nullptr) cudaGraphExecDestroy(exec);
  }
};

std::vector<CudaDeviceInfo> cuda_devices(std::string* why) {
  int count = 0;
  const std::string reason = why_no_device(&count);
  if (why != nullptr) *why = reason;
  std::vector<CudaDeviceInfo> devices;
  for (int device = 0; reason.empty() && device < count; ++device) {
    devices.push_back(describe(device));
  }
  return devices;
}

bool cuda_has_faulted() {
  std::size_t free_bytes = 0;
  std::size_t total = 0;
  return cudaMemGetInfo(&free_bytes, &total) != cudaSuccess;  // any call returns the fault
}

CudaQueue::CudaQueue(int device, Precision precision)
    : precision_(precision),
      blocking_(environment_says_blocking()),
      memory_(std::make_shared<Memory>()) {
  int count = 0;
  const std::string reason = why_no_device(&count);
  if (!reason.empty()) throw CudaError("CUDA: " + reason);
  if (device < 0 || device >= count) {
    throw CudaError("CUDA: there is no device " + std::to_string(device) + "; this machine has " +
                    std::to_string(count) + ", counted from 0");
  }
  info_ = describe(device);
  const char* const overlap = std::getenv("SIDECHANNEL_OVERLAP");
  overlaps_ = overlap != nullptr && std::string(overlap) == "on" && info_.compute_capability >= 90;
  check(cudaSetDevice(device), "cannot use the device");
  const int code = device_code_error();
  if (code == cudaErrorNoKernelImageForDevice || code == cudaErrorInvalidDeviceFunction) {
    cudaGetLastError();
    throw CudaError("CUDA: this program has no code for " + info_.name + " (compute capability " +
                    std::to_string(info_.compute_capability / 10) + "." +
                    std::to_string(info_.compute_capability % 10) +
                    "); it was built for " SIDECHANNEL_CUDA_ARCHITECTURES);
  }
  check(code, "cannot load the kernels");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cannot make a stream");
}

CudaQueue::~CudaQueue() {
  abandon_capture();
  scratch_.reset();
  blas_.reset();
  cudaStreamDestroy(stream_);  // whose work goes on; freeing memory waits for it
}

void CudaQueue::check(int error, const char* what) const {
  if (error != cudaSuccess)
    throw CudaError("CUDA: " + std::string(what) + ": " + take_error(error));
}

cublasLtContext* CudaQueue::blas() {
  if (blas_ == nullptr) {
    cublasLtHandle_t handle = nullptr;
    const cublasStatus_t status = cublasLtCreate(&handle);
    if (status != CUBLAS_STATUS_SUCCESS) {
      throw CudaError(std::string("CUDA: cuBLAS does not start: ") +
                      cublasLtGetStatusString(status));
    }
    blas_ =
        std::shared_ptr<cublasLtContext>(handle, [](cublasLtHandle_t h) { cublasLtDestroy(h); });
  }
  return blas_.get();
}

// --- Memory

std::size_t CudaQueue::memory_held() const {
  return memory_->held;
}
std::size_t CudaQueue::memory_peak() const {
  return memory_->peak;
}

std::shared_ptr<void> CudaQueue::allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  if (capturing_) {
    throw CudaError("CUDA: " + bytes_text(bytes) +
                    " of device memory are asked for while a step is recorded; a step that is to "
                    "be recorded has all its memory from the runs before");
  }
  const std::lock_guard<std::mutex> lock(allocation_mutex);
  void* p = nullptr;
  const cudaError_t error = cudaMalloc(&p, bytes);
  if (error == cudaErrorMemoryAllocation) out_of_memory(bytes);
  check(error, "cannot allocate memory");
  ++counters_.allocations;
  memory_->held += bytes;
  memory_->peak = std::max(memory_->peak, memory_->held);
  return {p, [memory = memory_, bytes](void* q) { memory->release(q, bytes); }};
}

std::size_t CudaQueue::memory_free() const {
  std::size_t free_bytes = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free_bytes, &total), "cannot ask for free memory");
  return free_bytes;
}

void CudaQueue::out_of_memory(std::size_t bytes) const {
  cudaGetLastError();
  std::size_t free_bytes = 0;
  std::size_t total = 0;
  cudaMemGetInfo(&free_bytes, &total);
  // Free memory need not be in one piece, so what would fit is found by trying.
  std::size_t fits = 0;
  std::size_t too_much = std::min(free_bytes + 1, bytes);
  for (int attempt = 0; attempt < 20 && fits + 1 < too_much; ++attempt) {
    const std::size_t half = attempt == 0 ? too_much - 1 : fits + (too_much - fits) / 2;
    void* p = nullptr;
    if (cudaMalloc(&p, half) == cudaSuccess) {
      cudaFree(p);
      fits = half;
    } else {
      cudaGetLastError();
      too_much = half;
    }
  }
  throw CudaError("CUDA: out of memory on " + info_.name + ": " + bytes_text(bytes) +
                  " are asked for, " + bytes_text(free_bytes) + " of " + bytes_text(total) +
                  " are free, this queue holds " + bytes_text(memory_->held) + " (at most " +
                  bytes_text(memory_->peak) + " so far); up to " + bytes_text(fits) + " would fit");
}

void* CudaQueue::scratch(std::size_t bytes) {
  if (bytes > scratch_bytes_) {
    constexpr std::size_t kStep = std::size_t{1} << 20;
    const std::size_t rounded = (bytes + kStep - 1) / kStep * kStep;
    // The old one stays until the new one is there: a recorded step must not lose it to a throw.
    scratch_ = allocate(rounded);
    scratch_bytes_ = rounded;
  }
  return scratch_.get();
}

void CudaQueue::copy_to_device(void* to, const void* from, std::size_t bytes) {
  if (capturing_) throw CudaError("CUDA: a copy from the host cannot be recorded");
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_),
        "cannot copy to the device");
}

void CudaQueue::copy_to_host(void* to, const void* from, std::size_t bytes) {
  if (capturing_) throw CudaError("CUDA: a copy to the host cannot be recorded");
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_);
  // A copy to ordinary memory waits, and so reports the fault of a kernel before it.
  if (error != cudaSuccess) {
    throw CudaError("CUDA: " + take_error(error) + ", in " + launches_since_wait());
  }
  wait();
}

void CudaQueue::copy_on_device(void* to, const void* from, std::size_t bytes) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_),
        "cannot copy on the device");
}

// --- Waiting, and what went wrong meanwhile

void CudaQueue::synchronize() {
  if (capturing_) throw CudaError("CUDA: nothing can be waited for while a step is recorded");
  wait();
}

void CudaQueue::wait() {
  ++counters_.synchronizations;
  const cudaError_t error = cudaStreamSynchronize(stream_);
  if (error != cudaSuccess) {
    throw CudaError("CUDA: " + take_error(error) + ", in " + launches_since_wait());
  }
  unwaited_ = 0;
}

void CudaQueue::remember(const CudaLaunch& launch) {
  recent_[static_cast<std::size_t>(unwaited_) % recent_.size()] = launch;
  ++unwaited_;
}

std::string CudaQueue::launches_since_wait() const {
  if (unwaited_ == 0) return "no launch of this queue";
  const auto kept = static_cast<std::int64_t>(recent_.size());
  if (unwaited_ == 1) return launch_text(recent_[0]);
  std::string text = "one of the " + std::to_string(unwaited_) + " launches since the last wait";
  text += unwaited_ > kept ? ", of which the last " + std::to_string(kept) + " are: " : ": ";
  for (std::int64_t i = std::max<std::int64_t>(0, unwaited_ - kept); i < unwaited_; ++i) {
    text += recent_[static_cast<std::size_t>(i % kept)].operation;
    text += i + 1 < unwaited_ ? ", " : "";
  }
  return text + " (CUDA_LAUNCH_BLOCKING=1 tells which)";
}

void CudaQueue::launched(const CudaLaunch& launch, int error) {
  if (error != cudaSuccess) {
    cudaGetLastError();
    // Any call returns the fault of an earlier kernel, if there was one; it does not go away.
    const cudaError_t state = cudaStreamQuery(stream_);
    if (state == cudaSuccess || state == cudaErrorNotReady || capturing_) {
      throw CudaError("CUDA: the launch of " + launch_text(launch) +
                      " was refused: " + text_of(error));
    }
    throw CudaError("CUDA: " + text_of(state) + ", in " +
                    (blocking_ ? launch_text(launch) : launches_since_wait()));
  }
  ++counters_.launches;
  if (capturing_) return;
  remember(launch);
  if (!blocking_) return;
  const cudaError_t fault = cudaStreamSynchronize(stream_);
  if (fault != cudaSuccess) {
    throw CudaError("CUDA: " + take_error(fault) + ", in " + launch_text(launch));
  }
  unwaited_ = 0;
}

// --- Graphs

void CudaQueue::begin_capture() {
  check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "cannot record a step");
  capturing_ = true;
  memory_->capturing = true;
  launches_before_capture_ = counters_.launches;
}

CudaGraph CudaQueue::end_capture() {
  auto recording = std::make_shared<CudaGraph::Recording>();
  recording->scratch = scratch_;
  recording->launches = counters_.launches - launches_before_capture_;
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream_, &graph);
  capturing_ = false;
  memory_->end_capture();
  check(ended, "a step could not be recorded");
  const cudaError_t instantiated = cudaGraphInstantiate(&recording->exec, graph, 0);
  cudaGraphDestroy(graph);
  check(instantiated, "a recorded step cannot be replayed");
  check(cudaGraphUpload(recording->exec, stream_), "a recorded step cannot be replayed");
  CudaGraph result;
  result.recording_ = std::move(recording);
  return result;
}

void CudaQueue::abandon_capture() noexcept {
  if (!capturing_) return;
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(stream_, &graph) == cudaSuccess) cudaGraphDestroy(graph);
  cudaGetLastError();
  capturing_ = false;
  memory_->end_capture();
}

void CudaQueue::launch(const CudaGraph& graph) {
  const cudaError_t error = cudaGraphLaunch(graph.recording_->exec, stream_);
  if (error != cudaSuccess) {
    throw CudaError("CUDA: " + take_error(error) + ", in " + launches_since_wait());
  }
  ++counters_.graph_launches;
  CudaLaunch record;
  record.operation = "a recorded step";
  record.recorded = graph.recording_->launches;
  remember(record);
  if (blocking_) wait();
}

}  // namespace sidechannel::kernels
