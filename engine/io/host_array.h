#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "engine/dtype.h"
#include "engine/error.h"
#include "engine/shape.h"

namespace sidechannel {

// An array in host memory as files hold it: row-major, little-endian, contiguous.
struct HostArray {
  DType dtype = DType::kF32;
  Shape shape;
  std::vector<std::byte> bytes;

  HostArray() = default;
  HostArray(DType type, Shape dims)
      : dtype(type), shape(dims), bytes(static_cast<std::size_t>(dims.size()) * size_of(type)) {}

  template <class T>
  static HostArray from(std::span<const T> values, Shape dims) {
    SC_CHECK(static_cast<std::int64_t>(values.size()) == dims.size(),
             "array: {} values do not fill shape {}", values.size(), dims.str());
    HostArray array(dtype_of<T>(), dims);
    if (!values.empty()) std::memcpy(array.bytes.data(), values.data(), array.bytes.size());
    return array;
  }

  // The elements as T; throws Error when the array holds another type.
  template <class T>
  std::span<const T> as() const {
    SC_CHECK(dtype == dtype_of<T>(), "array: holds {}, asked for {}", name_of(dtype),
             name_of(dtype_of<T>()));
    return {reinterpret_cast<const T*>(bytes.data()), static_cast<std::size_t>(shape.size())};
  }
  template <class T>
  std::span<T> as() {
    auto values = std::as_const(*this).as<T>();
    return {const_cast<T*>(values.data()), values.size()};
  }
};

}  // namespace sidechannel
