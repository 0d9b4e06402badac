#pragma once

// Poisoning of memory for AddressSanitizer. EMU_ASAN is set for the emulator's own files, which are
// themselves not instrumented (two to three times faster), so that the macros of the sanitizer's
// header would do nothing in them.

#include <cstddef>

#if defined(EMU_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu {

#if defined(EMU_ASAN)
constexpr bool kAsan = true;
inline void poison_for_asan(const void* p, std::size_t bytes) {
  __asan_poison_memory_region(p, bytes);
}
inline void unpoison_for_asan(const void* p, std::size_t bytes) {
  __asan_unpoison_memory_region(p, bytes);
}
#else
constexpr bool kAsan = false;
inline void poison_for_asan(const void*, std::size_t) {}
inline void unpoison_for_asan(const void*, std::size_t) {}
#endif

}  // namespace emu
