#pragma once

#include <gtest/gtest.h>

#include <string>

#include "engine/error.h"
#include "engine/io/json.h"

namespace sidechannel::experiments {

// The message of the UsageError that f throws; empty when it throws none.
template <class F>
std::string usage_error(const F& f) {
  try {
    f();
  } catch (const UsageError& error) {
    return error.what();
  }
  return {};
}

// That settings are what a JSON object says of some.
inline void expect_settings(const Json& settings, const std::string& expected) {
  const Json json = parse_json(expected, "expected");
  for (const auto& [name, value] : json.items()) {
    EXPECT_EQ(settings.value(name, Json()), value) << name;
  }
}

}  // namespace sidechannel::experiments
