#pragma once

#include <stdexcept>

namespace sidechannel {

// Something failed: a file, a device, a number. Programs print what() on one line and exit with 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace sidechannel
