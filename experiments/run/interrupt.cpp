#include "experiments/run/interrupt.h"

#include <fmt/format.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstddef>
#include <initializer_list>
#include <type_traits>

namespace sidechannel::experiments {
namespace {

constexpr long kPatience = 1'500'000;  // microseconds: of the two seconds in which programs end
constexpr long kLookAgain = 10'000;

// Asked by every thread that works, while a handler in any of them sets it.
std::atomic<int> requested = 0;
static_assert(std::atomic<int>::is_always_lock_free);  // so that a handler may

// A signal may come while the process ends: what its handler reads outlives the static destructors.
struct LastWords {
  std::array<char, 64> text;
  std::size_t size;
} last_words;
static_assert(std::is_trivially_destructible_v<LastWords>);

// All that follows may run in a signal's handler: it calls what is safe there, and no more.

void call_again(long microseconds) {
  itimerval timer = {};
  timer.it_value.tv_sec = microseconds / 1'000'000;
  timer.it_value.tv_usec = microseconds % 1'000'000;
  setitimer(ITIMER_REAL, &timer, nullptr);
}

void end_if_nothing_is_written(int) {
  if (interrupts_delayed > 0 || file_writes_under_way > 0) return call_again(kLookAgain);
  if (write(STDERR_FILENO, last_words.text.data(), last_words.size) < 0) {
    // The exit code says it, too.
  }
  _exit(kExitInterrupted);
}

void on_signal(int signal) {
  if (requested == SIGINT && signal == SIGINT) {
    std::signal(SIGINT, SIG_DFL);
    raise(SIGINT);  // as soon as this returns
    return;
  }
  requested = signal;
  if (interrupts_polled > 0) return call_again(kPatience);
  end_if_nothing_is_written(signal);
}

void handle(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;  // a write that is under way goes on
  sigaction(signal, &action, nullptr);
}

}  // namespace

void catch_interrupts(const char* name) {
  const char* const clear_of_progress = isatty(STDERR_FILENO) == 1 ? "\n" : "";
  const auto end = fmt::format_to_n(last_words.text.begin(), last_words.text.size(),
                                    "{}{}: interrupted\n", clear_of_progress, name)
                       .out;
  last_words.size = static_cast<std::size_t>(end - last_words.text.begin());
  handle(SIGALRM, end_if_nothing_is_written);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) handle(signal, on_signal);
  // A terminal that was closed; nohup has it ignored.
  struct sigaction before = {};
  sigaction(SIGHUP, nullptr, &before);
  if (before.sa_handler != SIG_IGN) handle(SIGHUP, on_signal);
}

bool interrupt_requested() {
  return requested != 0;
}

}  // namespace sidechannel::experiments
