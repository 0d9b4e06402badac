#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "engine/io/host_array.h"

namespace sidechannel {

// The tensors of a file by name. Nobody takes one before it is known to be what belongs there: each
// of these throws an Error that begins with `source`, the file's name.
using TensorMap = std::map<std::string, HostArray>;

// "run/checkpoint.safetensors: has no tensor adam.m", "...: adam.m is f32 [3], expected f32 [4]".
const HostArray& tensor_in(const TensorMap& tensors, const std::string& source,
                           const std::string& name, DType dtype, const Shape& shape);
// An i64 scalar from `least` to `most`.
std::int64_t whole_number_in(const TensorMap& tensors, const std::string& source,
                             const std::string& name, std::int64_t least, std::int64_t most);
// For what is a square, a sum of squares or a variance: Error where an f32 or f64 array holds less
// than 0, or no number. "...: tensor adam.v holds -1, expected at least 0".
void check_not_negative(const HostArray& array, const std::string& source, const std::string& name);
HostArray scalar(std::int64_t value);

}  // namespace sidechannel
