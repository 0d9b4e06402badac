// Put before a program by LD_PRELOAD, for tests: a machine that refuses what the environment names.
//   NO_LINK, NO_FLOCK, NO_FOLDER_FSYNC=ERRNO   that call fails with that error
//   MOST_THREADS=N                             pthread_create fails after N
//   MOST_CHILDREN=N                            fork fails while N of it are not waited for

#include <dlfcn.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>

namespace {

std::atomic<int> children = 0;

// Whether the environment names an error for this call, which errno then is.
bool refused(const char* name) {
  const char* const value = std::getenv(name);
  if (value != nullptr) errno = std::atoi(value);
  return value != nullptr;
}

template <class Function>
Function* next(Function* /*like*/, const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

extern "C" {

int link(const char* from, const char* to) noexcept {
  return refused("NO_LINK") ? -1 : next(&link, "link")(from, to);
}

int flock(int file, int operation) noexcept {
  return refused("NO_FLOCK") ? -1 : next(&flock, "flock")(file, operation);
}

int fsync(int file) {
  struct stat status {};
  if (fstat(file, &status) == 0 && S_ISDIR(status.st_mode) && refused("NO_FOLDER_FSYNC")) return -1;
  return next(&fsync, "fsync")(file);
}

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*),
                   void* argument) noexcept {
  static std::atomic<int> made = 0;
  const char* const most = std::getenv("MOST_THREADS");
  if (most != nullptr && ++made > std::atoi(most)) return EAGAIN;
  return next(&pthread_create, "pthread_create")(thread, attributes, start, argument);
}

pid_t fork() noexcept {
  const char* const most = std::getenv("MOST_CHILDREN");
  if (most != nullptr && children >= std::atoi(most)) {
    errno = EAGAIN;
    return -1;
  }
  ++children;
  return next(&fork, "fork")();
}

pid_t waitpid(pid_t process, int* status, int options) {
  const pid_t found = next(&waitpid, "waitpid")(process, status, options);
  if (found > 0) --children;
  return found;
}

}  // extern "C"
