#include "engine/tensor.h"

#include <algorithm>
#include <cstring>

#include "engine/arena.h"

namespace sidechannel {

Tensor::Tensor(Device device, DType dtype, Shape shape)
    : device_(std::move(device)), dtype_(dtype), shape_(shape) {
  // Never a null pointer, so that an empty tensor is a tensor too.
  owner_ = allocate_aligned(std::max<std::size_t>(bytes(), 1));
  data_ = owner_.get();
}

Tensor Tensor::zeros(const Device& device, DType dtype, Shape shape) {
  Tensor tensor(device, dtype, shape);
  tensor.fill(0);
  return tensor;
}

Tensor Tensor::from(const Device& device, const HostArray& array) {
  Tensor tensor(device, array.dtype, array.shape);
  tensor.copy_from(array);
  return tensor;
}

Tensor Tensor::reshape(Shape shape) const {
  SC_CHECK(shape.size() == size(), "reshape: {} does not hold the elements of {}", shape.str(),
           shape_.str());
  Tensor view = *this;
  view.shape_ = shape;
  return view;
}

Tensor Tensor::slice(std::int64_t first, std::int64_t count) const {
  SC_CHECK(first >= 0 && count >= 0 && first + count <= size(),
           "slice: elements {} to {} of a tensor of {}", first, first + count, size());
  Tensor view = *this;
  view.shape_ = Shape{count};
  view.data_ = static_cast<std::byte*>(data_) + static_cast<std::size_t>(first) * size_of(dtype_);
  return view;
}

void Tensor::fill(double value) const {
  on(device(), dtype_, [&](auto&, auto zero) {
    using T = decltype(zero);
    std::fill_n(data<T>(), size(), static_cast<T>(value));
  });
}

void Tensor::copy_from(const Tensor& other) const {
  SC_CHECK(other.shape() == shape_ && other.dtype() == dtype_, "copy: {} {} into {} {}",
           name_of(other.dtype()), other.shape().str(), name_of(dtype_), shape_.str());
  std::memcpy(data_, other.data_, bytes());
}

void Tensor::copy_from(const HostArray& array) const {
  SC_CHECK(array.shape == shape_ && array.dtype == dtype_, "copy: {} {} into {} {}",
           name_of(array.dtype), array.shape.str(), name_of(dtype_), shape_.str());
  if (!array.bytes.empty()) std::memcpy(data_, array.bytes.data(), bytes());
}

HostArray Tensor::to_host() const {
  HostArray array(dtype_, shape_);
  if (!array.bytes.empty()) std::memcpy(array.bytes.data(), data_, bytes());
  return array;
}

double Tensor::item() const {
  SC_CHECK(size() == 1, "item: expected one element, got shape {}", shape_.str());
  return on(device(), dtype_,
            [&](auto&, auto zero) { return static_cast<double>(*data<decltype(zero)>()); });
}

}  // namespace sidechannel
