#pragma once

#include <stdexcept>

namespace sidechannel {

// Something failed: a file, a device, a number. Programs print what() on one line and exit with 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What is no fault of what was asked for, nor of a file: a device that fails, memory that is not
// there.
class MachineError : public Error {
 public:
  using Error::Error;
};

}  // namespace sidechannel
