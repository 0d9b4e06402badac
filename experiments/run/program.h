#pragma once

#include <functional>

namespace sidechannel::experiments {

// What `work` returns. What it throws is one line on stderr that begins with `name`, and an exit
// code: 2 for a UsageError, 75 for Interrupted, 1 for others.
int exit_code_of(const char* name, const std::function<int()>& work);

// What every program's main does: runs `program`, and returns its exit_code_of.
int run_main(const char* name, int (*program)(int argc, char** argv), int argc, char** argv);

}  // namespace sidechannel::experiments
