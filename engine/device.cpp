#include "engine/device.h"

#include <algorithm>
#include <array>
#include <new>

#include "engine/io/file.h"
#include "engine/say.h"
#include "kernels/cpu/cores.h"

namespace sidechannel {
namespace {

// N of "cuda[:N]"; -1 when the name is something else.
int cuda_index(const std::string& name) {
  if (name == "cuda") return 0;
  constexpr std::int64_t kMost = 999;
  const auto index = name.starts_with("cuda:") ? whole_number(name.substr(5)) : std::nullopt;
  return index && *index >= 0 && *index <= kMost ? static_cast<int>(*index) : -1;
}

}  // namespace

Precision precision_from(const std::string& name) {
  if (name == "fp32") return Precision::kFp32;
  if (name == "tf32") return Precision::kTf32;
  throw UsageError(fmt::format("precision {}: expected fp32 or tf32", shown(name)));
}

std::string name_of(Precision precision) {
  return precision == Precision::kFp32 ? "fp32" : "tf32";
}

std::string bytes_text(double bytes) {
  constexpr std::array kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  std::size_t unit = 0;
  while (bytes >= 1000 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  const int digits = unit == 0 || bytes >= 99.95 ? 0 : 1;
  return fmt::format("{:.{}f} {}", bytes, digits, kUnits[unit]);
}

bool Device::is_name(const std::string& name) {
  return name == "auto" || name == "cpu" || cuda_index(name) >= 0;
}

Device Device::cpu(int threads, ConvGradients gradients) {
  Device device;
  device.cpu_ = std::make_shared<kernels::CpuQueue>(threads, gradients);
  const int made = device.cpu_->threads();
  const int wanted = threads > 0 ? threads : kernels::usable_cores();
  if (made < wanted) {
    note("cpu: {} of {} threads, {}\n", made, wanted,
         made == kernels::CpuQueue::kMostThreads ? "which is the most"
                                                 : "since the system makes no more");
  }
  return device;
}

Device Device::cuda([[maybe_unused]] int index, [[maybe_unused]] Precision precision) {
#if SIDECHANNEL_HAS_CUDA
  Device device;
  device.cuda_ = std::make_shared<kernels::CudaQueue>(index, precision);
  return device;
#else
  throw UsageError("this build has no CUDA backend; use --device cpu");
#endif
}

Device Device::from_name(const std::string& name, int threads, Precision precision,
                         std::string* why) {
  if (name == "cpu") return cpu(threads);
  if (const int index = cuda_index(name); index >= 0) {
    if (kHasCuda) return cuda(index, precision);
    throw UsageError(
        fmt::format("--device {}: this build has no CUDA backend; use --device cpu", name));
  }
  if (name != "auto")
    throw UsageError(fmt::format("--device {}: expected auto, cpu or cuda[:N]", shown(name)));
  if (!kHasCuda) return cpu(threads);
  std::string reason;
  try {
    const auto gpus = kernels::cuda_devices(&reason);
    if (!gpus.empty() && gpus.front().emulated) {
      reason = "the GPU of this build is emulated, and only taken when asked for";
    } else if (!gpus.empty()) {
      Device device = cuda(0, precision);
      if (why) *why = fmt::format("{} ({})", device.name(), device.description());
      return device;
    }
  } catch (const std::exception& error) {
    reason = error.what();
  }
  if (why) *why = fmt::format("cpu ({})", reason);
  return cpu(threads);
}

std::string Device::name() const {
  return is_cuda() ? fmt::format("cuda:{}", cuda_->info().index) : "cpu";
}

std::string Device::description() const {
  return is_cuda() ? cuda_->info().name : "cpu";
}

kernels::CpuQueue& Device::cpu_queue() const {
  SC_CHECK(cpu_ != nullptr, "device: {} is not a CPU", name());
  return *cpu_;
}

kernels::CudaQueue& Device::cuda_queue() const {
  SC_CHECK(cuda_ != nullptr, "device: {} is not a GPU", name());
  return *cuda_;
}

std::shared_ptr<void> Device::allocate(std::size_t bytes) const {
  // Never a null pointer, so that an empty tensor is a tensor too.
  bytes = std::max<std::size_t>(bytes, 1);
  try {
    return on(*this, [&](auto& queue) { return queue.allocate(bytes); });
  } catch (const std::bad_alloc&) {
    throw OutOfMemory("out of memory: could not get " + bytes_text(static_cast<double>(bytes)));
  }
}

std::optional<std::size_t> Device::free_memory() const {
  return on(*this, []<class Queue>([[maybe_unused]] Queue& queue) -> std::optional<std::size_t> {
    if constexpr (requires { queue.memory_free(); }) return queue.memory_free();
    return std::nullopt;
  });
}

void Device::copy_from_host(void* to, const void* from, std::size_t bytes) const {
  if (bytes > 0) on(*this, [&](auto& queue) { queue.copy_to_device(to, from, bytes); });
}

void Device::copy_to_host(void* to, const void* from, std::size_t bytes) const {
  if (bytes > 0) on(*this, [&](auto& queue) { queue.copy_to_host(to, from, bytes); });
}

void Device::copy(void* to, const void* from, std::size_t bytes) const {
  if (bytes > 0) on(*this, [&](auto& queue) { queue.copy_on_device(to, from, bytes); });
}

void Device::synchronize() const {
  on(*this, [](auto& queue) { queue.synchronize(); });
}

}  // namespace sidechannel
