#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

namespace sidechannel {

// Objects keep the order of their names, so that what was read is written as it stood.
using Json = nlohmann::ordered_json;

// The one way in for JSON from outside. Error, one line that begins with `source`, for what is not
// JSON, for two values under one name, and for what is there to exhaust a reader: more than 64
// levels, 256 names in an object, 2^22 values or 64 MiB in all.
Json parse_json(std::string_view text, std::string_view source);
// The same, of an object.
Json parse_json_object(std::string_view text, std::string_view source);
// A file that holds an object.
Json read_json(const std::filesystem::path& path);

// As JSON, also where a string in it is not UTF-8: such bytes (of a file's name, say) become
// U+FFFD.
std::string json_text(const Json& json, int indent = -1);
// A value in few words, for messages: "null", "3.7", "a list".
std::string in_words(const Json& value);

// The number or the text in `value`, where it is one of that type (finite) and fits it. T is
// std::int64_t, double, bool or std::string.
template <class T>
std::optional<T> value_of(const Json& value) {
  bool is = false;
  if constexpr (std::is_same_v<T, bool>) is = value.is_boolean();
  if constexpr (std::is_same_v<T, std::string>) is = value.is_string();
  if constexpr (std::is_same_v<T, double>) {
    is = value.is_number() && std::isfinite(value.template get<double>());
  }
  if constexpr (std::is_same_v<T, std::int64_t>) {
    is = value.is_number_integer() &&
         (!value.is_number_unsigned() || value.template get<std::uint64_t>() <= INT64_MAX);
  }
  return is ? std::optional<T>(value.template get<T>()) : std::nullopt;
}

// `value` as a T from `least` to `most`, or an Error that says what it has to be and begins with
// `what`: "plan.json: \"groups\" is 3.7, expected a whole number of at least 1".
template <class T>
T json_as(const Json& value, std::string_view what);
template <class T>
T json_as(const Json& value, std::string_view what, T least,
          T most = std::numeric_limits<T>::max());

// A number that may be undefined, which is null in JSON: there and back.
Json finite_or_null(double value);
double number_or(const Json& value, double otherwise);

// The value under a name of an object; an Error that begins with `source` where there is none.
const Json& member(const Json& object, std::string_view name, std::string_view source);
// That value, which must be an object or a list.
const Json& object_member(const Json& object, std::string_view name, std::string_view source);
const Json& list_member(const Json& object, std::string_view name, std::string_view source);
// That value as a T, within `range`: least and, where there is one, most.
template <class T, class... Range>
T field(const Json& object, std::string_view name, std::string_view source, Range... range) {
  return json_as<T>(member(object, name, source), fmt::format("{}: \"{}\"", source, name),
                    static_cast<T>(range)...);
}

}  // namespace sidechannel
