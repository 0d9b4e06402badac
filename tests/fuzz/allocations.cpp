// No allocation of a fuzzed program may be larger than a gigabyte. Apart from the code that makes
// them: a compiler that sees both takes them for a mismatch.

#include <cstdio>
#include <cstdlib>
#include <new>

void* operator new(std::size_t bytes) {
  constexpr std::size_t kMost = std::size_t{1} << 30;
  if (bytes > kMost) {
    std::fprintf(stderr, "an allocation of %zu bytes\n", bytes);
    std::abort();
  }
  if (void* memory = std::malloc(bytes > 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept {
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
