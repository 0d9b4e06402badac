#pragma once

#include <fmt/format.h>

#include <string>

#include "kernels/error.h"

namespace sidechannel {

// The caller asked for something impossible (a bad flag, a bad shape). Programs exit with 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

// Where a condition on what the caller asked for does not hold: UsageError.
inline void require(bool condition, const std::string& message) {
  if (!condition) throw UsageError(message);
}

}  // namespace sidechannel

// The one check of the engine: `condition` or an Error with the formatted message.
#define SC_CHECK(condition, ...)                                              \
  do {                                                                        \
    if (!(condition)) throw ::sidechannel::Error(::fmt::format(__VA_ARGS__)); \
  } while (false)
