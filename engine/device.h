#pragma once

#include <memory>
#include <string>
#include <utility>

#include "engine/dtype.h"
#include "engine/error.h"
#include "kernels/queue.h"

namespace sidechannel {

// Where tensors live and operations run. A value: copies share the same queue.
class Device {
 public:
  // `threads` = 0 takes every core that this process may use.
  static Device cpu(int threads = 0);
  // From a command line: "auto" (the best that is usable here), "cpu" or "cuda[:N]".
  // UsageError for anything else and for "cuda" in a build without it: an explicit wish never falls
  // back to another device.
  static Device from_name(const std::string& name, int threads = 0);

  std::string name() const { return "cpu"; }
  kernels::CpuQueue& cpu_queue() const { return *cpu_; }
  bool operator==(const Device&) const = default;

 private:
  explicit Device(std::shared_ptr<kernels::CpuQueue> cpu) : cpu_(std::move(cpu)) {}
  std::shared_ptr<kernels::CpuQueue> cpu_;
};

// The one place where backends part: calls f(queue, T()) with the device's queue and a zero of the
// element type, so that kernels are found by overload.
template <class F>
decltype(auto) on(const Device& device, DType dtype, F&& f) {
  if (dtype == DType::kF32) return f(device.cpu_queue(), float());
  SC_CHECK(dtype == DType::kF64, "tensors compute in f32 or f64, not in {}", name_of(dtype));
  return f(device.cpu_queue(), double());
}

// The same for kernels that have no element type.
template <class F>
decltype(auto) on(const Device& device, F&& f) {
  return f(device.cpu_queue());
}

}  // namespace sidechannel
