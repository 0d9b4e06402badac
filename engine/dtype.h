#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace sidechannel {

// Element types. Tensors compute in f32 or f64; bool and the integers appear only in files.
enum class DType : std::uint8_t { kF32, kF64, kI32, kI64, kU8, kBool };

struct DTypeInfo {
  std::string_view name;
  std::size_t size;  // of an element, in bytes
};
// In the order of DType.
inline constexpr DTypeInfo kDTypes[] = {{"f32", 4}, {"f64", 8}, {"i32", 4},
                                        {"i64", 8}, {"u8", 1},  {"bool", 1}};

constexpr std::size_t size_of(DType type) {
  return kDTypes[static_cast<std::size_t>(type)].size;
}

constexpr std::string_view name_of(DType type) {
  return kDTypes[static_cast<std::size_t>(type)].name;
}

// The DType of a C++ type: dtype_of<float>().
template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::kF32;
  if constexpr (std::is_same_v<T, double>) return DType::kF64;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::kI32;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::kI64;
  if constexpr (std::is_same_v<T, std::uint8_t>) return DType::kU8;
  if constexpr (std::is_same_v<T, bool>) return DType::kBool;
}

}  // namespace sidechannel
