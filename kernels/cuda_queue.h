#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/error.h"

struct CUstream_st;
struct cublasLtContext;

namespace sidechannel::kernels {

// What the products of convolutions and linear layers are computed in on CUDA. Statistics, sums,
// moments and Adam are fp32 (or double) in both.
enum class Precision : unsigned char {
  kFp32,  // fp32 operands and sums, or on tensor cores what is as near (docs/numerics.md)
  kTf32,  // operands rounded to TF32 (10 bits of mantissa), fp32 sums, on tensor cores
};

// Something that the CUDA runtime or cuBLAS refused, in words.
class CudaError : public MachineError {
 public:
  using MachineError::MachineError;
};

// What a GPU can do, as far as kernels choose by it.
struct CudaDeviceInfo {
  int index = 0;
  std::string name;
  int compute_capability = 0;  // 10 * major + minor: 90 for Hopper
  int multiprocessors = 0;
  std::size_t memory = 0;            // bytes on the device
  std::size_t shared_per_block = 0;  // bytes of shared memory that one block may ask for
  int driver_version = 0;            // 1000 * major + 10 * minor of the CUDA version it supports
  int runtime_version = 0;
  bool emulated =
      false;  // no GPU, but the emulator of the tests: nothing timed on it means anything
};

// One launch of a kernel, as far as a message about it needs.
struct CudaLaunch {
  const char* operation = "";  // a literal
  std::array<std::int64_t, 3> grid = {};
  std::array<unsigned, 3> block = {};
  std::size_t dynamic_shared = 0;
  unsigned cluster = 1;       // blocks
  std::int64_t recorded = 0;  // of a recorded step: its launches, and none of the above
};

// A recorded sequence of launches, to be replayed in one call. Copies share it.
class CudaGraph {
 public:
  CudaGraph() = default;
  explicit operator bool() const { return recording_ != nullptr; }

 private:
  friend class CudaQueue;
  struct Recording;
  std::shared_ptr<Recording> recording_;
};

// Where CUDA kernels run: a stream of one device, which becomes the calling thread's device.
// Kernels are launched in order and return before they are done; synchronize() waits. Everything
// that one operation passes to the next lies in device memory.
//
// A queue belongs to the thread that made it. Queues of several threads may work on one device at
// the same time: their launches are not ordered, and run side by side where there is room.
class CudaQueue {
 public:
  // CudaError in words: no driver, a driver that is too old, no such device, a device that this
  // binary has no code for.
  CudaQueue(int device, Precision precision);
  ~CudaQueue();
  CudaQueue(const CudaQueue&) = delete;
  CudaQueue& operator=(const CudaQueue&) = delete;

  const CudaDeviceInfo& info() const { return info_; }
  Precision precision() const { return precision_; }
  // Whether every launch is waited for (CUDA_LAUNCH_BLOCKING=1), to find the one that fails.
  bool blocking() const { return blocking_; }
  // Whether a launch's blocks may begin while the launch before still runs, and wait there for it
  // (programmatic dependent launch): with SIDECHANNEL_OVERLAP=on, from sm_90 on.
  bool overlaps() const { return overlaps_; }
  CUstream_st* stream() const { return stream_; }
  cublasLtContext* blas();

  // Device memory, 256-byte aligned; null for 0 bytes. CudaError that says what was asked for, what
  // is free, how much this queue holds and held at most, and what would fit. Not while capturing;
  // but what is released meanwhile is kept until the capture ends.
  std::shared_ptr<void> allocate(std::size_t bytes);
  // Scratch memory on the device for the operation that runs: valid until the next call. Grows as
  // operations need it, which a captured step does in its eager runs before.
  void* scratch(std::size_t bytes);

  // In stream order. Copies to the host wait until they are done, the others do not (ordinary host
  // memory is read before they return). Copies from and to the host not while capturing.
  void copy_to_device(void* to, const void* from, std::size_t bytes);
  void copy_to_host(void* to, const void* from, std::size_t bytes);
  void copy_on_device(void* to, const void* from, std::size_t bytes);

  // Waits for everything launched so far. A fault of a kernel shows here: CudaError with the
  // operations that were launched since the last wait. With CUDA_LAUNCH_BLOCKING=1 in the
  // environment every launch is waited for, and the error names the one.
  void synchronize();

  // Records what is launched between the two calls instead of running it. The graph keeps the
  // scratch memory that its launches use. After an error in between: abandon_capture().
  void begin_capture();
  CudaGraph end_capture();
  void abandon_capture() noexcept;
  bool capturing() const { return capturing_; }
  void launch(const CudaGraph& graph);

  // What happened on this queue so far: a steady state can be shown to allocate and wait nowhere.
  struct Counters {
    std::int64_t launches = 0;  // kernels, those recorded into graphs included
    std::int64_t graph_launches = 0;
    std::int64_t allocations = 0;
    std::int64_t synchronizations = 0;  // waits of the host, copies to the host included
  };
  const Counters& counters() const { return counters_; }
  // Bytes of device memory that this queue gave out and that are still held, and the most so far.
  std::size_t memory_held() const;
  std::size_t memory_peak() const;
  // Bytes of device memory that nobody holds.
  std::size_t memory_free() const;

  // For the launch wrapper in kernels/cuda/launch.h and calls of libraries: counts the launch,
  // keeps it for the message about a fault, and throws when `error` (a cudaError_t) says that the
  // runtime refused it.
  void launched(const CudaLaunch& launch, int error);

 private:
  void check(int error, const char* what) const;
  void wait();
  void remember(const CudaLaunch& launch);
  std::string launches_since_wait() const;
  [[noreturn]] void out_of_memory(std::size_t bytes) const;

  CudaDeviceInfo info_;
  Precision precision_ = Precision::kFp32;
  CUstream_st* stream_ = nullptr;
  std::shared_ptr<cublasLtContext> blas_;
  bool blocking_ = false;  // CUDA_LAUNCH_BLOCKING
  bool overlaps_ = false;
  bool capturing_ = false;
  std::int64_t launches_before_capture_ = 0;
  Counters counters_;
  std::array<CudaLaunch, 8> recent_;  // the newest launches: number i at i % size
  std::int64_t unwaited_ = 0;         // launches since the last wait
  struct Memory;                      // what is held on the device; outlives the queue
  std::shared_ptr<Memory> memory_;
  std::shared_ptr<void> scratch_;
  std::size_t scratch_bytes_ = 0;
};

// The GPUs of this machine; empty, with a reason in `why`, where there is none or no driver.
std::vector<CudaDeviceInfo> cuda_devices(std::string* why);

// Whether a kernel on the calling thread's device ended in a fault. It sticks: no queue of this
// process can go on there, whichever it was that launched the kernel.
bool cuda_has_faulted();

}  // namespace sidechannel::kernels
