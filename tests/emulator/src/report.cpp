// Messages: who was running, and where in the source.

#include <link.h>
#include <signal.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "asan.h"
#include "machine.h"

namespace emu {
namespace {

// What addr2line makes of an address of this program: the function, a newline, file:line. Only
// called when something is wrong.
std::string addr2line(const void* address) {
  std::size_t base = 0;  // where the program was loaded: the first of what is
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* result) {
        *static_cast<std::size_t*>(result) = info->dlpi_addr;
        return 1;
      },
      &base);
  const std::size_t offset = reinterpret_cast<std::size_t>(address) - base;
  const std::string command = format("addr2line -f -C -e /proc/%d/exe 0x%zx 2>/dev/null",
                                     static_cast<int>(getpid()), offset);
  std::string output;
  if (FILE* const pipe = popen(command.c_str(), "r")) {
    char buffer[1024];
    while (std::fgets(buffer, sizeof buffer, pipe) != nullptr) output += buffer;
    pclose(pipe);
  }
  return output;
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

// The text with what stands between the brackets left out.
std::string without(std::string text, char opening, char closing) {
  std::string result;
  int depth = 0;
  for (const char c : text) {
    if (c == opening) ++depth;
    if (depth == 0) result += c;
    if (c == closing && depth > 0) --depth;
  }
  return result;
}

struct sigaction previous_segv;
struct sigaction previous_bus;

// A crash in a kernel, or of host code on device memory. After the message the signal goes where it
// would have gone.
void on_crash(int signal_number, siginfo_t* info, void*) {
  const void* const at = info->si_addr;
  char text[512] = "";
  if (current != nullptr && stacks_begin <= at && at < stacks_end) {
    std::snprintf(text, sizeof text, "\nemulated CUDA: a thread's stack overflows; kernel %s, %s\n",
                  kernel_name(running_kernel).c_str(), place_of(*current).c_str());
  } else if (current != nullptr) {
    std::snprintf(text, sizeof text,
                  "\nemulated CUDA: invalid or misaligned address %p; kernel %s, %s\n", at,
                  kernel_name(running_kernel).c_str(), place_of(*current).c_str());
  } else if (on_device(at)) {
    std::snprintf(text, sizeof text,
                  "\nemulated CUDA: host code reads or writes device memory, at %p\n", at);
  }
  [[maybe_unused]] const auto written = write(STDERR_FILENO, text, std::strlen(text));
  sigaction(signal_number, signal_number == SIGSEGV ? &previous_segv : &previous_bus, nullptr);
}

}  // namespace

std::string format(const char* format_text, ...) {
  char text[2048];
  va_list arguments;
  va_start(arguments, format_text);
  std::vsnprintf(text, sizeof text, format_text, arguments);
  va_end(arguments);
  return text;
}

std::string kernel_name(const void* function) {
  // As `void sidechannel::kernels::(anonymous namespace)::forward<5>(float*, int)`: only the name.
  std::string name = first_line(addr2line(function));
  if (name.empty() || name == "??") return format("%p", function);
  const std::string anonymous = "(anonymous namespace)::";
  for (std::size_t at = name.find(anonymous); at != std::string::npos; at = name.find(anonymous)) {
    name.erase(at, anonymous.size());
  }
  const std::string bare = without(without(name, '(', ')'), '<', '>');
  const std::size_t scope = bare.rfind("::");
  const std::string last = scope == std::string::npos ? bare : bare.substr(scope + 2);
  const std::size_t space = last.rfind(' ');
  const std::string plain = space == std::string::npos ? last : last.substr(space + 1);
  const std::size_t begin = name.find(plain);
  name = without(name.substr(begin == std::string::npos ? 0 : begin), '(', ')');
  return name;
}

std::string place_of(const Thread& thread) {
  const uint3& t = thread.index;
  const uint3& b = thread.block->index;
  return format("thread (%u, %u, %u) of block (%u, %u, %u)", t.x, t.y, t.z, b.x, b.y, b.z);
}

std::string source_line(const void* return_address) {
  // The call stands before the address that it returns to.
  const std::string lines = addr2line(static_cast<const char*>(return_address) - 1);
  const std::size_t newline = lines.find('\n');
  if (newline == std::string::npos) return format("%p", return_address);
  std::string line = first_line(lines.substr(newline + 1));
  const std::string root = EMU_SOURCE_ROOT;
  if (line.compare(0, root.size(), root) == 0) line.erase(0, root.size());
  const std::size_t note = line.find(" (discriminator");
  return note == std::string::npos ? line : line.substr(0, note);
}

void prepare_thread_for_signals() {
  static char alternate_stack[64 * 1024];  // the overflowing one cannot be used
  stack_t stack = {};
  stack.ss_sp = alternate_stack;
  stack.ss_size = sizeof alternate_stack;
  if (!kAsan) sigaltstack(&stack, nullptr);  // the sanitizer has its own
}

void catch_signals() {
  struct sigaction action = {};
  action.sa_sigaction = on_crash;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, &previous_segv);
  sigaction(SIGBUS, &action, &previous_bus);
}

}  // namespace emu
