#pragma once

// Stackful fibers: each emulated thread has its own stack, and one switches to another by hand.
// A switch is some 13 ns with the assembly here (x86-64, aarch64) and 250 ns with ucontext, which
// serves elsewhere or where EMU_UCONTEXT is defined.

#include <cstddef>

#if !defined(EMU_UCONTEXT) && !defined(__x86_64__) && !defined(__aarch64__)
#define EMU_UCONTEXT
#endif
#if defined(EMU_UCONTEXT)
#include <ucontext.h>
#endif

namespace emu {

struct Fiber {
#if defined(EMU_UCONTEXT)
  ucontext_t context;
#else
  void* stack_pointer = nullptr;
#endif
  char* stack = nullptr;  // its lowest address
  std::size_t stack_bytes = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};

// Never returns; calls fiber_entered() first.
using FiberEntry = void (*)();

// (Re)starts the fiber at `entry`, forgetting what was on its stack.
void fiber_prepare(Fiber& fiber, FiberEntry entry);
// Returns when somebody switches back to `from`.
void fiber_switch(Fiber& from, Fiber& to);
void fiber_entered();

}  // namespace emu
