#pragma once

#include <atomic>

#include "engine/io/file.h"

namespace sidechannel::experiments {

// What main returns after a run was stopped by a signal (EX_TEMPFAIL of sysexits.h: the same
// command again continues; Slurm requeues on it).
inline constexpr int kExitInterrupted = 75;

// Thrown by a run that was asked to stop, after its checkpoint.
struct Interrupted {};

// From now on SIGINT (Ctrl-C), SIGTERM, SIGUSR1 and, but under nohup, SIGHUP (the terminal is gone)
// end the program `name` with one line and kExitInterrupted: at once, where nothing below says
// otherwise, and after a file that is being written in any case. A second SIGINT does not wait for
// that either.
void catch_interrupts(const char* name);

// Whether a signal has asked.
bool interrupt_requested();

// How many there are of what follows.
inline std::atomic<int> interrupts_polled = 0;
inline std::atomic<int> interrupts_delayed = 0;

// While one lives, a loop asks interrupt_requested() after each of its steps, and ends by itself
// with its state saved. A step that takes longer than a second and a half is not waited for.
using PollsInterrupts = Counted<interrupts_polled>;

// While one lives, what is done is waited for: the saving of a state.
using DelaysInterrupts = Counted<interrupts_delayed>;

}  // namespace sidechannel::experiments
