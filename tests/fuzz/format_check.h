#pragma once

// What the tests of file formats share. `parse(bytes, name)` reads a file of such a name.

#include <gtest/gtest.h>

#include <initializer_list>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/io/safetensors.h"
#include "tests/fuzz/mutator.h"
#include "tests/harness/op_check.h"

namespace sidechannel::fuzz {

inline Bytes bytes_of(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

template <class T>
HostArray array(std::initializer_list<T> values, Shape shape) {
  return HostArray::from<T>(std::span(values.begin(), values.size()), shape);
}

inline void expect_equal(const HostArray& a, const HostArray& b) {
  EXPECT_EQ(a.dtype, b.dtype);
  EXPECT_TRUE(a.shape == b.shape) << a.shape.str() << " " << b.shape.str();
  EXPECT_EQ(a.bytes, b.bytes);
}

inline void expect_equal(const SafetensorsFile& a, const SafetensorsFile& b) {
  EXPECT_EQ(a.metadata, b.metadata);
  ASSERT_EQ(a.tensors.size(), b.tensors.size());
  for (const auto& [name, tensor] : a.tensors) {
    ASSERT_TRUE(b.tensors.contains(name)) << name;
    SCOPED_TRACE(name);
    expect_equal(tensor, b.tensors.at(name));
  }
}

struct BadFile {
  const char* name;
  Bytes bytes;
  std::string message;  // after the file's name
};

// That each is refused in a line of its own.
template <class Parse>
void expect_refusals(const std::vector<BadFile>& files, const Parse& parse) {
  std::set<std::string> messages;
  for (const BadFile& bad : files) {
    const std::string message = harness::error_of([&] { parse(bad.bytes, "runs/x"); });
    EXPECT_EQ(message, "runs/x: " + bad.message) << bad.name;
    EXPECT_TRUE(messages.insert(message).second)
        << bad.name << " is not the first to say: " << message;
    EXPECT_EQ(message.find('\n'), message.npos) << bad.name;
  }
}

// Parses, and where that succeeds expects that the result survives a round trip. Anything thrown
// but an Error, and any Error that is not one line with the file's name, fails the test.
template <class Parse, class Serialize>
bool parses(std::span<const std::byte> bytes, const Parse& parse, const Serialize& serialize) {
  std::optional<decltype(parse(bytes, "fuzz"))> parsed;
  const std::string message = harness::error_of([&] { parsed = parse(bytes, "fuzz"); });
  if (!parsed) {
    EXPECT_TRUE(message.starts_with("fuzz: ") && message.find('\n') == message.npos) << message;
    EXPECT_LT(message.size(), 400u) << message;
    return false;
  }
  expect_equal(parse(serialize(*parsed), "again"), *parsed);
  return true;
}

// That of 50,000 mutated files some are read, and not too many.
template <class Parse>
void expect_survival(const Parse& parses_mutated) {
  int parsed = 0;
  constexpr std::size_t kInputs = 50'000;
  for (std::size_t i = 0; i < kInputs && !testing::Test::HasFailure(); ++i) {
    parsed += parses_mutated(i);
  }
  EXPECT_GT(parsed, kInputs / 100);  // the edits reach past the header...
  EXPECT_LT(parsed, kInputs / 2);    // ...and mean something
}

}  // namespace sidechannel::fuzz
