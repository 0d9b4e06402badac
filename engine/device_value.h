#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "engine/tensor.h"

namespace sidechannel {

// One T in a device's memory: what kernels read and move from step to step, a counter or an
// optimizer's state, and the host only looks at. Copies share it, as copies of a tensor do.
template <class T>
class DeviceValue {
 public:
  static_assert(std::is_trivially_copyable_v<T>, "its bytes travel between host and device");

  explicit DeviceValue(const Device& device, const T& value = T())
      : bytes_(device, DType::kU8, Shape{sizeof(T)}) {
    set(value);
  }

  // In order with what was launched before and after. Not in a step that is being recorded.
  void set(const T& value) const {
    HostArray bytes(DType::kU8, bytes_.shape());
    std::memcpy(bytes.bytes.data(), &value, sizeof(T));
    bytes_.copy_from(bytes);
  }
  // Waits for what was launched before.
  T get() const {
    const HostArray bytes = bytes_.to_host();
    T value;
    std::memcpy(&value, bytes.bytes.data(), sizeof(T));
    return value;
  }
  // Where it lies, for kernels. The host may form addresses of its members, not read them.
  T* data() const { return reinterpret_cast<T*>(bytes_.data<std::uint8_t>()); }

 private:
  Tensor bytes_;
};

}  // namespace sidechannel
