// Emulated device memory: one stretch of addresses. What was never written is NaN; between
// allocations lie redzones for AddressSanitizer and the race check.

#include <sys/mman.h>

#include <cstring>
#include <map>

#include "asan.h"
#include "machine.h"

namespace emu {

unsigned char* heap_base = nullptr;

namespace {

constexpr std::size_t kAlignment = 256;  // cudaMalloc's
// Of the size of the system's huge pages, where it has them: to protect and open a hundred thousand
// small ones around every launch would take longer than most launches.
constexpr std::size_t kPage = std::size_t{2} << 20;

std::map<unsigned char*, std::size_t> live;   // bytes asked for
std::map<unsigned char*, std::size_t> holes;  // bytes of the slot
unsigned char* heap_top = nullptr;            // nothing was ever given out from here on
std::size_t bytes_live = 0;
bool open = true;
int holders = 0;  // of HeapAccess

std::size_t slot_bytes(std::size_t bytes) {
  return (bytes + kRedzone + kAlignment - 1) / kAlignment * kAlignment;
}

unsigned char* page_end(unsigned char* p) {
  const auto offset = static_cast<std::size_t>(p - heap_base);
  return heap_base + (offset + kPage - 1) / kPage * kPage;
}

void protect(unsigned char* begin, unsigned char* end, bool writable) {
  if (begin == end) return;
  mprotect(begin, static_cast<std::size_t>(end - begin),
           writable ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void protect_all(bool writable) {
  protect(heap_base, page_end(heap_top), writable);
  open = writable;
}

void reserve() {
  if (heap_base != nullptr) return;
  void* const p = mmap(nullptr, kHeapBytes + kPage, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw Error("the emulator gets no addresses for device memory");
  heap_base = reinterpret_cast<unsigned char*>((reinterpret_cast<std::uintptr_t>(p) + kPage - 1) /
                                               kPage * kPage);
  madvise(heap_base, kHeapBytes, MADV_HUGEPAGE);
  heap_top = heap_base;
  catch_signals();
}

// The smallest hole that fits, or new addresses.
unsigned char* take_slot(std::size_t bytes) {
  auto best = holes.end();
  for (auto hole = holes.begin(); hole != holes.end(); ++hole) {
    if (hole->second < bytes) continue;
    if (best == holes.end() || hole->second < best->second) best = hole;
  }
  if (best == holes.end()) {
    if (kHeapBytes - static_cast<std::size_t>(heap_top - heap_base) < bytes) return nullptr;
    unsigned char* const p = heap_top;
    heap_top += bytes;
    protect(page_end(p), page_end(heap_top), true);
    return p;
  }
  const auto [p, hole_bytes] = *best;
  holes.erase(best);
  if (hole_bytes > bytes) holes[p + bytes] = hole_bytes - bytes;
  return p;
}

void give_slot_back(unsigned char* p, std::size_t bytes) {
  auto next = holes.lower_bound(p);
  if (next != holes.end() && next->first == p + bytes) {
    bytes += next->second;
    next = holes.erase(next);
  }
  if (next != holes.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == p) {
      p = before->first;
      bytes += before->second;
      holes.erase(before);
    }
  }
  if (p + bytes < heap_top) {
    holes[p] = bytes;
    return;
  }
  // The end of what is used: those pages go back to the system.
  unsigned char* const end = page_end(heap_top);
  heap_top = p;
  unsigned char* const begin = page_end(heap_top);
  if (begin < end) madvise(begin, static_cast<std::size_t>(end - begin), MADV_DONTNEED);
  protect(begin, end, false);
}

}  // namespace

HeapAccess::HeapAccess() {
  if (holders++ == 0 && !open) protect_all(true);
}

HeapAccess::~HeapAccess() {
  if (--holders == 0 && heap_base != nullptr) protect_all(false);
}

bool on_device(const void* p) {
  return heap_base != nullptr && p >= heap_base && p < heap_base + kHeapBytes;
}

void* heap_allocate(std::size_t bytes) {
  reserve();
  const HeapAccess access;
  unsigned char* const p = take_slot(slot_bytes(bytes));
  if (p == nullptr) return nullptr;
  unpoison_for_asan(p, bytes);
  std::memset(p, 0xff, bytes);
  poison_for_asan(p + bytes, slot_bytes(bytes) - bytes);
  live[p] = bytes;
  bytes_live += bytes;
  if (note_allocation != nullptr) note_allocation(p, slot_bytes(bytes));
  return p;
}

bool heap_free(void* p) {
  const auto found = live.find(static_cast<unsigned char*>(p));
  if (found == live.end()) return false;
  const auto [begin, bytes] = *found;
  const HeapAccess access;
  std::memset(begin, 0xff, bytes);
  poison_for_asan(begin, slot_bytes(bytes));
  live.erase(found);
  bytes_live -= bytes;
  if (note_allocation != nullptr) note_allocation(begin, slot_bytes(bytes));
  give_slot_back(begin, slot_bytes(bytes));
  return true;
}

std::size_t allocated_bytes() {
  return bytes_live;
}

Allocation heap_find(const void* p) {
  auto* const at = static_cast<unsigned char*>(const_cast<void*>(p));
  auto after = live.upper_bound(at);
  if (after == live.begin()) return {nullptr, 0};
  const auto [begin, bytes] = *std::prev(after);
  return at < begin + bytes ? Allocation{begin, bytes} : Allocation{nullptr, 0};
}

bool heap_holds(const void* p, std::size_t bytes) {
  const Allocation allocation = heap_find(p);
  return allocation.begin != nullptr &&
         static_cast<const unsigned char*>(p) + bytes <= allocation.begin + allocation.bytes;
}

void heap_each(const std::function<void(const Allocation&)>& f) {
  for (const auto& [begin, bytes] : live) f({begin, bytes});
}

}  // namespace emu
