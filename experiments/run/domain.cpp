#include "experiments/run/domain.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace sidechannel::experiments {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// Leading zeros would make it octal to some.
bool has_leading_zero(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  return text.size() > 1 && text[0] == '0' && is_digit(text[1]);
}

template <class T>
std::optional<T> number(std::string_view text) {
  T value{};
  const char* const end = text.data() + text.size();
  if (std::is_integral_v<T> && text == "-0") return std::nullopt;
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || has_leading_zero(text)) return std::nullopt;
  return value;
}

}  // namespace

std::optional<std::int64_t> whole_number(std::string_view text) {
  return number<std::int64_t>(text);
}

std::optional<double> real_number(std::string_view text) {
  const std::optional<double> value = number<double>(text);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

bool Whole::holds(std::int64_t value) const {
  return value >= least && value <= most && !(odd && value % 2 == 0);
}

std::string Whole::words() const {
  return fmt::format("{} number from {} to {}", odd ? "an odd" : "a whole", least, most);
}

bool Real::holds(double value) const {
  const bool above = least_too ? value >= least : value > least;
  return above && (most_too ? value <= most : value < most);  // NaN is nowhere
}

std::string Real::words() const {
  return fmt::format("a number {} {} and {} {}", least_too ? "of at least" : "above", least,
                     most_too ? "at most" : "below", most);
}

bool OneOf::holds(const std::string& value) const {
  return std::find(names.begin(), names.end(), value) != names.end();
}

std::string OneOf::words() const {
  return listed(names);
}

}  // namespace sidechannel::experiments
