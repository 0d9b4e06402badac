#pragma once

#include <string>

namespace sidechannel::experiments {

// Where this program comes from, as of its build.
struct BuildInfo {
  std::string version;   // of the project
  std::string commit;    // of git, "unknown" outside a checkout
  bool modified;         // whether the checkout differed from the commit
  std::string compiler;  // "GNU 12.2.0"
  std::string flags;     // "Release -march=native"
};
BuildInfo build_info();

// Empty when this CPU has what the program was compiled for, otherwise what is missing, in words.
std::string missing_cpu_features();

// "Intel(R) Xeon(R) Processor, 2 cores"
std::string cpu_description();

}  // namespace sidechannel::experiments
