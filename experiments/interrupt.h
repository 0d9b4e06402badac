#pragma once

namespace sidechannel::experiments {

// What main returns after a run was stopped by a signal, with its state saved (EX_TEMPFAIL of
// sysexits.h: the same command again continues; Slurm requeues on it).
inline constexpr int kExitInterrupted = 75;

// Thrown by a run that was asked to stop, after its checkpoint.
struct Interrupted {};

// From now on SIGINT (Ctrl-C), SIGTERM and SIGUSR1 ask the run to stop instead of ending it.
// A second SIGINT ends the program at once.
void catch_interrupts();

// Whether a signal has asked.
bool interrupt_requested();

}  // namespace sidechannel::experiments
