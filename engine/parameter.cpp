#include "engine/parameter.h"

#include <cstring>

#include "engine/io/file.h"

namespace sidechannel {
namespace {

// From memory to a file, and back.
HostArray rearranged(const HostArray& array, Layout layout) {
  return layout == Layout::kConv1dWeight ? reverse_axes(array) : array;
}

Shape file_shape(const Shape& shape, Layout layout) {
  return layout == Layout::kConv1dWeight ? Shape{shape[2], shape[1], shape[0]} : shape;
}

}  // namespace

HostArray reverse_axes(const HostArray& array) {
  SC_CHECK(array.shape.rank() == 3, "reverse_axes: expected three axes, got {}", array.shape.str());
  const std::int64_t a = array.shape[0];
  const std::int64_t b = array.shape[1];
  const std::int64_t c = array.shape[2];
  HostArray reversed(array.dtype, Shape{c, b, a});
  const std::size_t width = size_of(array.dtype);
  for (std::int64_t i = 0; i < a; ++i) {
    for (std::int64_t j = 0; j < b; ++j) {
      for (std::int64_t k = 0; k < c; ++k) {
        std::memcpy(&reversed.bytes[static_cast<std::size_t>((k * b + j) * a + i) * width],
                    &array.bytes[static_cast<std::size_t>((i * b + j) * c + k) * width], width);
      }
    }
  }
  return reversed;
}

Parameter& ParameterList::add(std::string name, Shape shape, Layout layout) {
  check_new(name, file_shape(shape, layout));
  parameters_.push_back({std::move(name), Tensor(device_, dtype_, shape),
                         Tensor::zeros(device_, dtype_, shape), layout});
  return parameters_.back();
}

Parameter& ParameterList::add_uniform(std::string name, Shape shape, double bound, Layout layout) {
  const auto index = static_cast<std::uint32_t>(parameters_.size());
  Parameter& parameter = add(std::move(name), shape, layout);
  on(device_, dtype_, [&]<class T>(auto& queue) {
    run(queue, kernels::UniformFill<T>{.random = {seed_, static_cast<std::uint32_t>(stream_)},
                                       .step = index,
                                       .bound = bound,
                                       .size = parameter.value.size(),
                                       .out = parameter.value.data<T>()});
  });
  return parameter;
}

Parameter& ParameterList::add_filled(std::string name, Shape shape, double value) {
  Parameter& parameter = add(std::move(name), shape, Layout::kSame);
  parameter.value.fill(value);
  return parameter;
}

Constant& ParameterList::add_constant(std::string name, Shape shape, double value, Values values) {
  check_new(name, shape);
  constants_.push_back({std::move(name), Tensor(device_, dtype_, shape), values});
  constants_.back().value.fill(value);
  return constants_.back();
}

void ParameterList::check_new(const std::string& name, const Shape& in_file) {
  if (file_) tensor_in(*file_, source_, name, dtype_, in_file);
  SC_CHECK(names_.insert(name).second, "parameters: there are two of the name {}", name);
}

std::int64_t ParameterList::size() const {
  std::int64_t total = 0;
  for (const Parameter& parameter : parameters_) total += parameter.value.size();
  return total;
}

ParameterList::Flat ParameterList::flatten() {
  if (flat_ && flat_->values.size() == size()) return *flat_;
  Flat flat{Tensor(device_, dtype_, Shape{size()}), Tensor(device_, dtype_, Shape{size()})};
  std::int64_t at = 0;
  for (Parameter& parameter : parameters_) {
    const Shape shape = parameter.value.shape();
    const auto move = [&](Tensor& tensor, const Tensor& into) {
      const Tensor place = into.slice(at, shape.size()).reshape(shape);
      place.copy_from(tensor);
      tensor = place;
    };
    move(parameter.value, flat.values);
    move(parameter.grad, flat.grads);
    at += shape.size();
  }
  flat_ = flat;
  return flat;
}

bool ParameterList::lies_in(const Flat& flat) const {
  return flat.values.size() == size() &&
         (parameters_.empty() || parameters_.front().value.same_memory(flat.values));
}

void ParameterList::zero_grad() {
  for (Parameter& parameter : parameters_) parameter.grad.fill(0);
}

void ParameterList::save(TensorMap& tensors) const {
  for (const Parameter& p : parameters_) tensors[p.name] = rearranged(p.value.to_host(), p.layout);
  for (const Constant& c : constants_) tensors[c.name] = c.value.to_host();
}

void ParameterList::load(const TensorMap& tensors, const std::string& source, LoadUnknown unknown) {
  // Everything is checked before anything is taken: a file that is refused changes nothing.
  const auto check = [&](const std::string& name, Layout layout, const Tensor& value) {
    tensor_in(tensors, source, name, value.dtype(), file_shape(value.shape(), layout));
  };
  for (const Parameter& p : parameters_) check(p.name, p.layout, p.value);
  for (const Constant& c : constants_) {
    check(c.name, Layout::kSame, c.value);
    if (c.values == Values::kNotNegative) check_not_negative(tensors.at(c.name), source, c.name);
  }
  for (const auto& [name, array] : tensors) {
    // PyTorch's BatchNorm counts its updates; nothing here depends on the count.
    SC_CHECK(unknown == LoadUnknown::kIgnore || names_.contains(name) ||
                 name.ends_with(".num_batches_tracked"),
             "{}: has a tensor {} that the model does not have", source, shown(name));
  }
  for (const Parameter& p : parameters_) {
    p.value.copy_from(rearranged(tensors.at(p.name), p.layout));
  }
  for (const Constant& c : constants_) c.value.copy_from(tensors.at(c.name));
  file_ = nullptr;
}

}  // namespace sidechannel
