#include "engine/tensor.h"

#include "kernels/fill.h"

namespace sidechannel {

Tensor::Tensor(Device device, DType dtype, Shape shape)
    : device_(std::move(device)), dtype_(dtype), shape_(shape) {
  owner_ = device_->allocate(bytes());
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
  SC_CHECK(first >= 0 && count >= 0 && first <= size() && count <= size() - first,
           "slice: {} elements from {} on of a tensor of {}", count, first, size());
  Tensor view = *this;
  view.shape_ = Shape{count};
  view.data_ = static_cast<std::byte*>(data_) + static_cast<std::size_t>(first) * size_of(dtype_);
  return view;
}

void Tensor::fill(double value) const {
  SC_CHECK(dtype_ == DType::kF32 || dtype_ == DType::kF64,
           "tensors compute in f32 or f64, not in {}", name_of(dtype_));
  on(device(), [&](auto& queue) {
    if (dtype_ == DType::kF64) return kernels::fill(queue, size(), value, data<double>());
    kernels::fill(queue, size(), static_cast<float>(value), data<float>());
  });
}

void Tensor::copy_from(const Tensor& other) const {
  SC_CHECK(other.shape() == shape_ && other.dtype() == dtype_, "copy: {} {} into {} {}",
           name_of(other.dtype()), other.shape().str(), name_of(dtype_), shape_.str());
  if (!(other.device() == device())) return copy_from(other.to_host());
  device().copy(data_, other.data_, bytes());
}

void Tensor::copy_from(const HostArray& array) const {
  SC_CHECK(array.shape == shape_ && array.dtype == dtype_, "copy: {} {} into {} {}",
           name_of(array.dtype), array.shape.str(), name_of(dtype_), shape_.str());
  device().copy_from_host(data_, array.bytes.data(), bytes());
}

HostArray Tensor::to_host() const {
  HostArray array(dtype_, shape_);
  device().copy_to_host(array.bytes.data(), data_, bytes());
  return array;
}

double Tensor::item() const {
  SC_CHECK(size() == 1, "item: expected one element, got shape {}", shape_.str());
  const HostArray host = to_host();
  return dtype_ == DType::kF64 ? host.as<double>()[0] : host.as<float>()[0];
}

}  // namespace sidechannel
