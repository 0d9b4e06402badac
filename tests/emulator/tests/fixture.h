#pragma once

#include <gtest/gtest.h>

#include <memory>
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

// Runs in every order of threads.
class EmulatorTest : public testing::TestWithParam<emu::Order> {
 protected:
  EmulatorTest() { emu::options().order = GetParam(); }
  FreshMachine machine;
  kernels::CudaQueue queue{0, kernels::Precision::kFp32};
};

inline auto AllOrders() {
  return testing::Values(emu::Order::kFirstIn, emu::Order::kLastIn, emu::Order::kRandom);
}
inline std::string name_of_order(const testing::TestParamInfo<emu::Order>& info) {
  switch (info.param) {
    case emu::Order::kFirstIn:
      return "FirstIn";
    case emu::Order::kLastIn:
      return "LastIn";
    case emu::Order::kRandom:
      return "Random";
  }
  return "";
}

}  // namespace sidechannel::test
