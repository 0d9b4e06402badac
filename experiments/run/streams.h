#pragma once

#include <string>

namespace sidechannel::experiments {

// For the start of a program: what goes wrong with its standard streams costs words, never files. A
// descriptor 0, 1 or 2 that is closed is taken by one that refuses to be written to, so that no
// file comes to be called standard output. A reader that has gone (`... | head -1`) and a limit on
// the size of files become errors of the write, instead of signals that end the program.
void prepare_streams();

// For its end: flushes stdout. Empty when all that was said has been taken, otherwise the system's
// reason.
std::string why_stdout_is_incomplete();

}  // namespace sidechannel::experiments
