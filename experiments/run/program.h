#pragma once

namespace sidechannel::experiments {

// What every program's main does: runs `program` and turns what it throws into one line on stderr
// that begins with `name` and an exit code: 2 for a UsageError, 75 for Interrupted, 1 for others.
int run_main(const char* name, int (*program)(int argc, char** argv), int argc, char** argv);

}  // namespace sidechannel::experiments
