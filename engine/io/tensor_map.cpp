#include "engine/io/tensor_map.h"

#include <algorithm>

#include "engine/io/file.h"

namespace sidechannel {

const HostArray& tensor_in(const TensorMap& tensors, const std::string& source,
                           const std::string& name, DType dtype, const Shape& shape) {
  const auto found = tensors.find(name);
  SC_CHECK(found != tensors.end(), "{}: has no tensor {}", source, shown(name));
  const HostArray& array = found->second;
  SC_CHECK(array.dtype == dtype && array.shape == shape, "{}: {} is {} {}, expected {} {}", source,
           shown(name), name_of(array.dtype), array.shape.str(), name_of(dtype), shape.str());
  return array;
}

std::int64_t whole_number_in(const TensorMap& tensors, const std::string& source,
                             const std::string& name, std::int64_t least, std::int64_t most) {
  const std::int64_t value =
      tensor_in(tensors, source, name, DType::kI64, Shape{}).as<std::int64_t>()[0];
  SC_CHECK(value >= least && value <= most, "{}: {} is {}, expected {}", source, name, value,
           least == most ? fmt::to_string(least) : fmt::format("{} to {}", least, most));
  return value;
}

void check_not_negative(const HostArray& array, const std::string& source,
                        const std::string& name) {
  const auto check = [&](auto values) {
    const auto bad = std::ranges::find_if(values, [](auto value) { return !(value >= 0); });
    SC_CHECK(bad == values.end(), "{}: tensor {} holds {}, expected at least 0", source,
             shown(name), *bad);
  };
  if (array.dtype == DType::kF32) check(array.as<float>());
  if (array.dtype == DType::kF64) check(array.as<double>());
}

HostArray scalar(std::int64_t value) {
  return HostArray::from<std::int64_t>(std::span(&value, 1), Shape{});
}

}  // namespace sidechannel
