#pragma once

// What the tests of CUDA kernels share, on a GPU or on its emulation.

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/cuda_queue.h"
#include "tests/harness/op_check.h"

#if SIDECHANNEL_CUDA_EMULATED
#include "emu/emulator.h"
#endif

namespace sidechannel::harness {

// The first GPU in each precision, for the whole program.
inline const Device& cuda_device(Precision precision = Precision::kFp32) {
  static const Device fp32 = Device::cuda(0, Precision::kFp32);
  static const Device tf32 = Device::cuda(0, Precision::kTf32);
  return precision == Precision::kFp32 ? fp32 : tf32;
}

inline kernels::CudaQueue& cuda_queue(Precision precision = Precision::kFp32) {
  return cuda_device(precision).cuda_queue();
}

// Of tests that need a GPU or its emulation: a visible skip where there is none.
class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (kernels::cuda_devices(&why).empty()) GTEST_SKIP() << why;
  }
};

// What no kernel may touch: the emulator's race check finds it, other builds do not look.
inline void forbid_access([[maybe_unused]] const void* p, [[maybe_unused]] std::size_t bytes) {
#if SIDECHANNEL_CUDA_EMULATED
  emu::forbid_access(p, bytes);
#endif
}

// As Walled, in device memory. Each buffer's walls are a NaN of its own, so that one that was read
// outside of a buffer and written outside of another one shows. Kernels move four elements at once
// where addresses allow it, so tests run both with buffers that begin at multiples of 16 bytes and
// with ones that do not.
template <class T>
class DeviceBuffer {
 public:
  using Element = T;

  // While one lives, new buffers begin one element off.
  class Misaligned {
   public:
    Misaligned() { shift() = 1; }
    ~Misaligned() { shift() = 0; }
    Misaligned(const Misaligned&) = delete;
    Misaligned& operator=(const Misaligned&) = delete;
  };

  explicit DeviceBuffer(std::int64_t size)
      : size_(static_cast<std::size_t>(size)),
        begin_(kWall + shift()),
        wall_(new_wall()),
        host_(size_ + 2 * kWall + shift(), wall_),
        memory_(cuda_queue().allocate(host_.size() * sizeof(T))) {
    forbid_access(memory_.get(), begin_ * sizeof(T));
    forbid_access(data() + size_, kWall * sizeof(T));
    upload();
  }
  explicit DeviceBuffer(const std::vector<T>& values)
      : DeviceBuffer(static_cast<std::int64_t>(values.size())) {
    set(values);
  }

  T* data() { return static_cast<T*>(memory_.get()) + begin_; }
  const T* data() const { return static_cast<const T*>(memory_.get()) + begin_; }

  void set(const std::vector<T>& values) {
    std::copy(values.begin(), values.end(), host_.begin() + static_cast<std::ptrdiff_t>(begin_));
    upload();
  }
  // Waits for the device. Valid until the next call.
  std::span<const T> values() const {
    download();
    return {host_.data() + begin_, size_};
  }
  T value() const { return values()[0]; }

  bool walls_stand() const {
    download();
    for (std::size_t i = 0; i < host_.size(); ++i) {
      if (i >= begin_ && i < begin_ + size_) continue;
      if (std::memcmp(&host_[i], &wall_, sizeof(T)) != 0) return false;
    }
    return true;
  }

 private:
  static constexpr std::size_t kWall = 64;  // a multiple of 16 bytes
  static std::size_t& shift() {
    static std::size_t elements = 0;
    return elements;
  }
  static T new_wall() {
    T value = harness::new_wall<T>();
    if constexpr (std::numeric_limits<T>::has_quiet_NaN) {
      static std::uint32_t buffers = 0;
      using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
      Bits bits;
      std::memcpy(&bits, &value, sizeof bits);
      bits |= 1 + ++buffers % 0x3fffff;
      std::memcpy(&value, &bits, sizeof bits);
    }
    return value;
  }
  void upload() {
    settle();  // kernels of either queue may still read what was there, or read this next
    cuda_queue().copy_to_device(memory_.get(), host_.data(), host_.size() * sizeof(T));
    settle();
  }
  static void settle() {
    cuda_queue().synchronize();
    cuda_queue(kernels::Precision::kTf32).synchronize();
  }
  void download() const {
    settle();
    cuda_queue().copy_to_host(host_.data(), memory_.get(), host_.size() * sizeof(T));
  }

  std::size_t size_;
  std::size_t begin_;
  T wall_;
  mutable std::vector<T> host_;
  std::shared_ptr<void> memory_;
};

}  // namespace sidechannel::harness
