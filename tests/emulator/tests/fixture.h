#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "emu/emulator.h"
#include "kernels/cuda_queue.h"

namespace sidechannel::test {

// Values in device memory.
template <class T>
class Device {
 public:
  Device(kernels::CudaQueue& queue, const std::vector<T>& values)
      : queue_(queue), size_(values.size()), memory_(queue.allocate(size_ * sizeof(T))) {
    queue.copy_to_device(data(), values.data(), size_ * sizeof(T));
  }
  T* data() const { return static_cast<T*>(memory_.get()); }
  std::vector<T> get() const {
    std::vector<T> values(size_);
    queue_.copy_to_host(values.data(), data(), size_ * sizeof(T));
    return values;
  }

 private:
  kernels::CudaQueue& queue_;
  std::size_t size_;
  std::shared_ptr<void> memory_;
};

// A healthy machine, whatever a test before left behind and the environment says.
struct FreshMachine {
  FreshMachine() {
    emu::reset();
    emu::options() = emu::Options();
  }
  ~FreshMachine() { emu::reset(); }
};

// On a healthy machine; with a queue.
class MachineTest : public testing::Test {
 protected:
  FreshMachine machine;
};
class QueueTest : public MachineTest {
 protected:
  kernels::CudaQueue queue{0, kernels::Precision::kFp32};
};

// The message of the Error that f() throws.
template <class Error>
std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

// first, first + 1, ...
inline std::vector<float> counting(std::size_t size, float first = 0) {
  std::vector<float> values(size);
  std::iota(values.begin(), values.end(), first);
  return values;
}

}  // namespace sidechannel::test
