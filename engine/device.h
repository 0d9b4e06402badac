#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "engine/dtype.h"
#include "engine/error.h"
#include "kernels/cuda_queue.h"
#include "kernels/queue.h"

#ifndef SIDECHANNEL_HAS_CUDA
#define SIDECHANNEL_HAS_CUDA 0
#endif

namespace sidechannel {

// Whether this build has the CUDA backend.
inline constexpr bool kHasCuda = SIDECHANNEL_HAS_CUDA;

using kernels::ConvGradients;
using kernels::Precision;

// "fp32" or "tf32"; UsageError for anything else.
Precision precision_from(const std::string& name);
std::string name_of(Precision precision);

// A device, or the machine, had not the memory that was asked for.
class OutOfMemory : public MachineError {
 public:
  using MachineError::MachineError;
};

// "1.5 GiB": three digits and the unit that fits.
std::string bytes_text(double bytes);

// Where tensors live and operations run. A value: copies share the same queue.
class Device {
 public:
  // `threads` = 0 takes every core that this process may use.
  static Device cpu(int threads = 0, ConvGradients gradients = ConvGradients::kFastest);
  // Error in words when that GPU cannot be used, or when this build has no CUDA backend.
  static Device cuda(int index = 0, Precision precision = Precision::kTf32);
  // From a command line: "auto" (a GPU where one is usable, else the CPU), "cpu" or "cuda[:N]".
  // An explicit wish never falls back to another device: UsageError for an unknown name or a build
  // without CUDA, Error for a GPU that cannot be used. `why`, if given, is told what auto took and
  // why; nothing where a build without CUDA leaves no choice.
  static Device from_name(const std::string& name, int threads = 0,
                          Precision precision = Precision::kTf32, std::string* why = nullptr);

  // Whether `name` has the form of one that from_name() takes: "auto", "cpu", "cuda", "cuda:N".
  static bool is_name(const std::string& name);

  // "cpu" or "cuda:N".
  std::string name() const;
  // The name of the GPU, and that it is emulated where it is; "cpu" otherwise.
  std::string description() const;
  bool is_cuda() const { return cuda_ != nullptr; }

  // Error when this is another kind of device.
  kernels::CpuQueue& cpu_queue() const;
  kernels::CudaQueue& cuda_queue() const;
  bool operator==(const Device&) const = default;

  // Memory on this device, aligned to at least 64 bytes, with no particular content. An error
  // says how much was asked for when there is none left (OutOfMemory, CudaError).
  std::shared_ptr<void> allocate(std::size_t bytes) const;
  // Bytes of a GPU's memory that nobody holds; nothing for the CPU.
  std::optional<std::size_t> free_memory() const;
  // In order with the operations; to_host waits for them.
  void copy_from_host(void* to, const void* from, std::size_t bytes) const;
  void copy_to_host(void* to, const void* from, std::size_t bytes) const;
  void copy(void* to, const void* from, std::size_t bytes) const;
  // Waits for every operation so far. What went wrong in one shows here, or in copy_to_host.
  void synchronize() const;

 private:
  Device() = default;
  std::shared_ptr<kernels::CpuQueue> cpu_;
  std::shared_ptr<kernels::CudaQueue> cuda_;
};

// The one place where backends part: calls f(queue) with the device's queue, so that kernels are
// found by overload.
template <class F>
decltype(auto) on(const Device& device, F&& f) {
#if SIDECHANNEL_HAS_CUDA
  if (device.is_cuda()) return f(device.cuda_queue());
#endif
  return f(device.cpu_queue());
}

// The same for kernels with an element type: calls f.operator()<T>(queue), as of the lambda
// []<class T>(auto& queue) { ... }.
template <class F>
decltype(auto) on(const Device& device, DType dtype, F&& f) {
#if SIDECHANNEL_HAS_CUDA
  if (device.is_cuda()) {
    SC_CHECK(dtype == DType::kF32, "{}: computes in f32, not in {}", device.name(), name_of(dtype));
    return f.template operator()<float>(device.cuda_queue());
  }
#endif
  if (dtype == DType::kF32) return f.template operator()<float>(device.cpu_queue());
  SC_CHECK(dtype == DType::kF64, "tensors compute in f32 or f64, not in {}", name_of(dtype));
  return f.template operator()<double>(device.cpu_queue());
}

}  // namespace sidechannel
