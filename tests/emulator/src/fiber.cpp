#include "fiber.h"

#include <cstdint>

#include "asan.h"

namespace emu {

#if !defined(EMU_UCONTEXT)
// Saves the registers that a called function must preserve, stores the stack pointer, and goes on
// where the other stack was left.
extern "C" void emu_switch(void** save_stack_pointer, void* load_stack_pointer);
#if defined(__x86_64__)
asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch, .-emu_switch
)");

namespace {
// The stack of a fiber that was switched away from just before `entry`. At a function's first
// instruction the stack pointer is 8 below a multiple of 16.
void* initial_stack(char* top, FiberEntry entry) {
  auto** at = reinterpret_cast<void**>(top);
  *--at = nullptr;  // where `entry` would return to
  *--at = reinterpret_cast<void*>(entry);
  for (int saved = 0; saved < 6; ++saved) *--at = nullptr;
  return at;
}
}  // namespace
#else
asm(R"(
.text
.globl emu_switch
.type emu_switch,@function
emu_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8,  d9,  [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8,  d9,  [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size emu_switch, .-emu_switch
)");

namespace {
void* initial_stack(char* top, FiberEntry entry) {
  auto** at = reinterpret_cast<void**>(top) - 20;
  for (int saved = 0; saved < 20; ++saved) at[saved] = nullptr;
  at[11] = reinterpret_cast<void*>(entry);  // x30, where `ret` goes
  return at;
}
}  // namespace
#endif
#endif

#if defined(EMU_ASAN)
namespace {

Fiber* switched_from;

// Tells the sanitizer that the switch is done, and learns where the program's own stack lies, which
// nobody allocated here.
void arrived(void* fake_stack) {
  const void* bottom = nullptr;
  std::size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake_stack, &bottom, &bytes);
  if (switched_from->stack == nullptr) {
    switched_from->stack = static_cast<char*>(const_cast<void*>(bottom));
    switched_from->stack_bytes = bytes;
  }
}

}  // namespace
#endif

void fiber_prepare(Fiber& fiber, FiberEntry entry) {
  unpoison_for_asan(fiber.stack, fiber.stack_bytes);  // frames of an abandoned run
  fiber.fake_stack = nullptr;
  // Stacks that all began at a page's end would compete for the same few sets of the cache.
  const std::size_t number = reinterpret_cast<std::uintptr_t>(fiber.stack) / fiber.stack_bytes;
  char* const top = fiber.stack + fiber.stack_bytes - number % 61 * 64;
#if defined(EMU_UCONTEXT)
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = static_cast<std::size_t>(top - fiber.stack);
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, entry, 0);
#else
  fiber.stack_pointer = initial_stack(top, entry);
#endif
}

void fiber_switch(Fiber& from, Fiber& to) {
#if defined(EMU_ASAN)
  switched_from = &from;
  __sanitizer_start_switch_fiber(&from.fake_stack, to.stack, to.stack_bytes);
#endif
#if defined(EMU_UCONTEXT)
  swapcontext(&from.context, &to.context);
#else
  emu_switch(&from.stack_pointer, to.stack_pointer);
#endif
#if defined(EMU_ASAN)
  arrived(from.fake_stack);
#endif
}

void fiber_entered() {
#if defined(EMU_ASAN)
  arrived(nullptr);
#endif
}

}  // namespace emu
