#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace sidechannel {

// Something failed: a file, a device, a number. Programs print what() on one line and exit with 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The caller asked for something impossible (a bad flag, a bad shape). Programs exit with 2.
class UsageError : public Error {
 public:
  using Error::Error;
};

}  // namespace sidechannel

// The one check of the engine: `condition` or an Error with the formatted message.
#define SC_CHECK(condition, ...)                                              \
  do {                                                                        \
    if (!(condition)) throw ::sidechannel::Error(::fmt::format(__VA_ARGS__)); \
  } while (false)
