#pragma once

#include <string>
#include <vector>

namespace sidechannel::kernels {

// A folder with the files of a control group, of version 2 or 1.
struct ControlGroup {
  std::string folder;
  bool v2;
};

// The control groups that bind this process by a controller ("cpu", "memory"): its own and those
// around it, as far as they can be seen; of version 2 and of version 1. `root` stands before /proc
// and before the mount points, for tests.
std::vector<ControlGroup> control_groups(const std::string& controller,
                                         const std::string& root = "");

}  // namespace sidechannel::kernels
