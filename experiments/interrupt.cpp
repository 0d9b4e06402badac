#include "experiments/interrupt.h"

#include <csignal>
#include <initializer_list>

namespace sidechannel::experiments {
namespace {

volatile std::sig_atomic_t requested = 0;

void on_signal(int signal) {
  if (requested == SIGINT && signal == SIGINT) std::signal(SIGINT, SIG_DFL);
  requested = signal;
}

}  // namespace

void catch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;  // a write that is under way goes on
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) sigaction(signal, &action, nullptr);
}

bool interrupt_requested() {
  return requested != 0;
}

}  // namespace sidechannel::experiments
