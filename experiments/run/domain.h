#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/io/file.h"

namespace sidechannel::experiments {

// The parts of a text between separators.
std::vector<std::string> split(const std::string& text, char separator);

// Whole numbers, none below 0: `first`, and from there by `step` up to `last`.
struct Range {
  std::int64_t first = 0;
  std::int64_t last = 0;
  std::int64_t step = 1;
  std::string text;  // as it was given

  std::uint64_t size() const;
};
inline constexpr const char* kRanges =
    "a list of numbers and of FIRST..LAST:STEP, as in 0..32:4,33";
// Those of a list of them, each N, FIRST..LAST or FIRST..LAST:STEP, where a colon may stand for the
// dots. None where the text is of another form.
std::vector<Range> ranges_in(const std::string& text);

// What a setting may be. Each kind reads a value from text, tells whether a value belongs to it,
// says in words what does: "a whole number from 1 to 64", and has for --help a type: "N". In a type
// capitals stand for something else; what stands between bars may be given as it stands.

struct Whole {
  using Value = std::int64_t;
  std::int64_t least = 0;
  std::int64_t most = 0;
  bool odd = false;

  static std::optional<std::int64_t> read(std::string_view text) { return whole_number(text); }
  bool holds(std::int64_t value) const;
  std::string words() const;
  static std::string type() { return "N"; }
};

struct Real {
  using Value = double;
  double least = 0;
  double most = 0;
  bool least_too = false;
  bool most_too = true;

  static std::optional<double> read(std::string_view text) { return real_number(text); }
  bool holds(double value) const;
  std::string words() const;
  static std::string type() { return "NUMBER"; }
};

struct OneOf {
  using Value = std::string;
  std::vector<const char*> names;

  static std::optional<std::string> read(std::string_view text) { return std::string(text); }
  bool holds(const std::string& value) const;
  std::string words() const;
  std::string type() const;  // "constant|tail"
};

// Text of a form of its own; without `fits` it is checked where it is read.
struct Text {
  using Value = std::string;
  const char* form;
  bool (*fits)(const std::string& value) = nullptr;
  const char* of_type = "TEXT";

  static std::optional<std::string> read(std::string_view text) { return std::string(text); }
  bool holds(const std::string& value) const { return fits == nullptr || fits(value); }
  std::string words() const { return form; }
  std::string type() const { return of_type; }
};

using Domain = std::variant<Whole, Real, OneOf, Text>;

// Bounds that several settings share. No product of settings within theirs wraps where it is made
// from 64-bit numbers; whether the memory is there is asked of require_memory().
inline constexpr std::int64_t kMostLength = 1'000'000;
inline constexpr std::int64_t kMostDepth = 1000;
inline constexpr std::int64_t kMostChannels = 16'384;
inline constexpr std::int64_t kMostKernelSize = 999;
inline constexpr std::int64_t kMostBatch = 1'000'000;
inline constexpr std::int64_t kMostThreads = 1024;
// The generator counts steps, and samples, in 32 bits.
inline constexpr std::int64_t kMostSteps = (std::int64_t{1} << 32) - 1;
inline constexpr double kLowestRate = 1e-30;  // below it a step is nothing in f32
inline constexpr double kHighestRate = 1e30;

}  // namespace sidechannel::experiments
