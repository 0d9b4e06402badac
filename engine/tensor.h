#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "engine/device.h"
#include "engine/dtype.h"
#include "engine/io/host_array.h"
#include "engine/shape.h"

namespace sidechannel {

// A contiguous, row-major array on a device, in f32 or f64. A value that refers to shared memory:
// copies are cheap and see the same elements.
class Tensor {
 public:
  Tensor() = default;
  // Elements are not initialized.
  Tensor(Device device, DType dtype, Shape shape);
  // A view of memory that `owner` keeps alive.
  Tensor(Device device, DType dtype, Shape shape, std::shared_ptr<void> owner, void* data)
      : device_(std::move(device)),
        dtype_(dtype),
        shape_(shape),
        owner_(std::move(owner)),
        data_(data) {}

  static Tensor zeros(const Device& device, DType dtype, Shape shape);
  static Tensor from(const Device& device, const HostArray& array);

  explicit operator bool() const { return data_ != nullptr; }
  const Device& device() const { return *device_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  std::int64_t size() const { return shape_.size(); }
  std::size_t bytes() const { return static_cast<std::size_t>(size()) * size_of(dtype_); }
  // Whether both begin at the same place in memory.
  bool same_memory(const Tensor& other) const { return data_ == other.data_; }

  // The elements on the device. Error when T is not the tensor's type.
  template <class T>
  T* data() const {
    SC_CHECK(dtype_ == dtype_of<T>(), "tensor: holds {}, asked for {}", name_of(dtype_),
             name_of(dtype_of<T>()));
    return static_cast<T*>(data_);
  }

  // The same elements under another shape of the same size.
  Tensor reshape(Shape shape) const;
  // `count` elements from `first` on, as a vector.
  Tensor slice(std::int64_t first, std::int64_t count) const;

  void fill(double value) const;
  // Also from another device.
  void copy_from(const Tensor& other) const;
  void copy_from(const HostArray& array) const;
  HostArray to_host() const;
  // The only element of a tensor of size one.
  double item() const;

 private:
  std::optional<Device> device_;
  DType dtype_ = DType::kF32;
  Shape shape_;
  std::shared_ptr<void> owner_;
  void* data_ = nullptr;
};

}  // namespace sidechannel
