#include "experiments/run/program.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>

#include "engine/say.h"
#include "experiments/run/build_info.h"
#include "experiments/run/interrupt.h"
#include "experiments/run/memory.h"
#include "experiments/run/settings.h"

namespace sidechannel::experiments {
namespace {

// For the start of a program: what goes wrong with its standard streams costs words, never files. A
// descriptor 0, 1 or 2 that is closed is taken by one that refuses to be written to, so that no
// file comes to be called standard output. A reader that has gone (`... | head -1`) and a limit on
// the size of files become errors of the write, instead of signals that end the program.
void prepare_streams() {
  for (int descriptor = 0; descriptor <= STDERR_FILENO; ++descriptor) {
    if (::fcntl(descriptor, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest free number is this one. Without a /dev any folder does.
    if (::open("/dev/null", O_RDONLY) < 0) ::open("/", O_RDONLY);
  }
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
}

// For its end: flushes stdout. Empty when all that was said has been taken, otherwise the system's
// reason.
std::string why_stdout_is_incomplete() {
  errno = 0;
  const bool flushed = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  int code = errno;
  if (flushed) {
    // Some file systems (NFS, quotas) tell only at a close.
    const int copy = ::dup(STDOUT_FILENO);
    if (copy < 0 || ::close(copy) == 0) return {};
    code = errno;
  }
  return code == 0 ? "not all of it was taken" : std::generic_category().message(code);
}

// Whether this CPU can run what is to come; says so where it cannot.
bool cpu_suffices(const char* name) {
  const std::string missing = missing_cpu_features();
  if (missing.empty()) return true;
  complain("{}: this CPU lacks {}; build again on it, or with -DSIDECHANNEL_ARCH=x86-64-v3\n", name,
           missing);
  return false;
}

}  // namespace

int exit_code_of(const char* name, const std::function<int()>& work) {
  const auto fails = [&](int code, const std::string& message) {
    complain("{}: {}\n", name, message);
    return code;
  };
  try {
    return work();
  } catch (const Interrupted&) {
    return kExitInterrupted;
  } catch (const UsageError& error) {
    return fails(2, error.what());
  } catch (const std::filesystem::filesystem_error& error) {
    return fails(1, fmt::format("{}: {}", error.path1().string(), error.code().message()));
  } catch (const std::bad_alloc&) {
    return fails(1, "out of memory; " + memory_hint());
  } catch (const std::length_error&) {
    return fails(1, "out of memory; " + memory_hint());
  } catch (const OutOfMemory& error) {
    return fails(1, fmt::format("{}; {}", error.what(), memory_hint()));
  } catch (const std::exception& error) {
    return fails(1, error.what());
  }
}

int run_main(const char* name, int (*program)(int argc, char** argv), int argc, char** argv) {
  prepare_streams();
  int code = 1;
  if (cpu_suffices(name)) {
    catch_interrupts(name);
    code = exit_code_of(name, [&] { return program(argc, argv); });
  }
  const std::string lost = why_stdout_is_incomplete();
  if (lost.empty()) return code;
  complain("{}: cannot write standard output: {}\n", name, lost);
  return code == 0 ? 1 : code;
}

}  // namespace sidechannel::experiments
