#include "experiments/run/streams.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

namespace sidechannel::experiments {

void prepare_streams() {
  for (int descriptor = 0; descriptor <= STDERR_FILENO; ++descriptor) {
    if (::fcntl(descriptor, F_GETFD) >= 0 || errno != EBADF) continue;
    // The lowest free number is this one. Without a /dev any folder does.
    if (::open("/dev/null", O_RDONLY) < 0) ::open("/", O_RDONLY);
  }
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);
}

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

}  // namespace sidechannel::experiments
