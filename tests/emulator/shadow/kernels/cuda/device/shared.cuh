#pragma once

// Emulated, in the place of the header of this name.

#include "emu/device.h"

namespace sidechannel::kernels::device {

template <class T>
T& static_shared() {
  static emu::SharedKey key;
  return *static_cast<T*>(emu::static_shared(key, sizeof(T), alignof(T)));
}

template <class T>
T* dynamic_shared() {
  return static_cast<T*>(emu::dynamic_shared());
}

}  // namespace sidechannel::kernels::device
