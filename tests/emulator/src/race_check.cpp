// The race check: kernels are compiled with -fsanitize=thread but not linked with its library, so
// that the compiler's calls for every load and store come here. Found are, exactly:
//
// - races: two accesses of the same bytes, one of them a write, that no barrier, __syncwarp or
//   launch puts in an order, whether or not this run's order hides the consequence;
// - reads of memory that nobody has written;
// - accesses outside of allocations, or of host memory.
//
// Each 4 bytes of device and shared memory have a cell that knows the last write and the reads
// since then, with the logical time at which they happened. An access of thread t happens after
// another one if that was made by t itself, or in an earlier launch, or in its block before the
// block's last barrier, or in its warp before a __syncwarp that joined the two lanes, or in its
// cluster before the cluster's last barrier, or before a thread arrived at an mbarrier that t
// waited for. This file itself is not instrumented.

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "machine.h"

extern "C" char __executable_start;  // set by the linker
extern "C" char _end;

namespace emu {
namespace {

enum class Readers : std::uint8_t { kNone, kThread, kWarp, kBlock, kGrid };

struct Cell {
  std::uint64_t owner;  // 0: what stands here is stale
  std::uint32_t write_time;
  std::uint32_t write_block;
  std::uint32_t read_time;  // of the last read
  std::uint32_t read_block;
  std::uint32_t read_lanes;  // where the readers are lanes of a warp
  std::uint16_t write_thread;
  std::uint16_t read_thread;
  std::uint8_t write_bytes;  // masks of the cell's four bytes
  std::uint8_t read_bytes;
  std::uint8_t written;
  std::uint8_t valid;
  bool write_atomic;
  bool write_async;  // by a bulk copy
  Readers readers;
  const void* write_caller;
  const void* read_caller;
};

Cell* heap_cells = nullptr;
Cell* shared_cells = nullptr;

// Pages that nobody touches cost nothing, so that there can be a cell for every address.
Cell* cells_for(std::size_t bytes) {
  void* const p = mmap(nullptr, bytes / 4 * sizeof(Cell), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw Error("the race check gets no memory");
  return static_cast<Cell*>(p);
}

struct Access {
  const void* p;
  bool write;
  bool atomic;
  bool shared;
  const void* caller;
};

// Up to when what that thread did happened before, by mbarriers.
std::uint32_t met(const Thread& me, std::uint32_t block_number, unsigned thread) {
  if (me.met.empty()) return 0;
  for (const Block& block : cluster.blocks) {
    if (block.number == block_number)
      return me.met[block.in_cluster * threads_per_block() + thread];
  }
  return 0;
}

// Whether what `thread` of `block` did at `time` happens before the current thread's access.
bool ordered(std::uint32_t block_number, unsigned thread, std::uint32_t time) {
  const Thread& me = *current;
  const Block& mine = *me.block;
  if (time < launch_time) return true;
  if (time < met(me, block_number, thread)) return true;
  if (block_number == mine.number) {
    return thread == me.place.rank || time < mine.barrier_time ||
           (thread / 32 == me.place.warp && time < me.seen[thread % 32]);
  }
  if (cluster.blocks.size() == 1 || time >= cluster.barrier_time) return false;
  return std::any_of(cluster.blocks.begin(), cluster.blocks.end(),
                     [&](const Block& block) { return block.number == block_number; });
}

bool readers_ordered(const Cell& cell) {
  const Block& mine = *current->block;
  switch (cell.readers) {
    case Readers::kNone:
      return true;
    case Readers::kThread:
      return ordered(cell.read_block, cell.read_thread, cell.read_time);
    case Readers::kWarp:
      for (unsigned lane = 0; lane < 32; ++lane) {
        if ((cell.read_lanes >> lane & 1) == 0) continue;
        if (!ordered(cell.read_block, cell.read_thread / 32u * 32 + lane, cell.read_time)) {
          return false;
        }
      }
      return true;
    case Readers::kBlock:
      if (cell.read_time < launch_time) return true;
      if (cell.read_block == mine.number) return cell.read_time < mine.barrier_time;
      return ordered(cell.read_block, 0, cell.read_time);
    case Readers::kGrid:
      return cell.read_time < launch_time ||
             (cluster.blocks.size() > 1 && cell.read_time < cluster.barrier_time);
  }
  return false;
}

[[noreturn]] void report_race(const char* kind, const Access& access, std::uint32_t block,
                              unsigned thread, const void* other_caller) {
  device_fail("race (%s) on %s memory: thread %u of block %u at %s, now at %s", kind,
              access.shared ? "shared" : "global", thread, block, source_line(other_caller).c_str(),
              source_line(access.caller).c_str());
}

void note_write(Cell& cell, unsigned bytes, const Access& access) {
  cell.write_time = logical_time;
  cell.write_block = current->block->number;
  cell.write_thread = static_cast<std::uint16_t>(current->place.rank);
  cell.write_bytes = static_cast<std::uint8_t>(bytes);
  cell.write_atomic = access.atomic;
  cell.write_async = false;
  cell.write_caller = access.caller;
  cell.written |= static_cast<std::uint8_t>(bytes);
  cell.readers = Readers::kNone;
  cell.read_bytes = 0;
}

// Readers are remembered as one thread, several lanes of one warp, several threads of one block, or
// of the grid, whichever is the smallest.
void note_read(Cell& cell, unsigned bytes, const Access& access) {
  const Thread& me = *current;
  const std::uint32_t block = me.block->number;
  const bool me_again = cell.readers == Readers::kThread && cell.read_block == block &&
                        cell.read_thread == me.place.rank;
  const bool forgettable = cell.readers == Readers::kNone || me_again ||
                           cell.read_time < launch_time ||
                           (cell.readers == Readers::kThread &&
                            ordered(cell.read_block, cell.read_thread, cell.read_time)) ||
                           (cell.readers != Readers::kGrid && cell.read_block == block &&
                            cell.read_time < me.block->barrier_time);
  if (forgettable) {
    cell.readers = Readers::kThread;
    cell.read_lanes = 1u << me.place.lane;
    cell.read_bytes = static_cast<std::uint8_t>(bytes);
  } else {
    if (cell.read_block != block) {
      cell.readers = Readers::kGrid;
    } else if (cell.readers <= Readers::kWarp && cell.read_thread / 32 == me.place.warp) {
      cell.readers = Readers::kWarp;
      cell.read_lanes |= 1u << me.place.lane;
    } else if (cell.readers < Readers::kBlock) {
      cell.readers = Readers::kBlock;
    }
    cell.read_bytes |= static_cast<std::uint8_t>(bytes);
  }
  cell.read_time = logical_time;
  cell.read_block = block;
  cell.read_thread = static_cast<std::uint16_t>(me.place.rank);
  cell.read_caller = access.caller;
}

// `bytes` is a mask of the cell's four.
void check_cell(Cell& cell, unsigned bytes, const Access& access) {
  const char* const space = access.shared ? "shared" : "global";
  if ((cell.valid & bytes) != bytes) {
    device_fail("%s of %s memory outside of any allocation, at %s", access.write ? "write" : "read",
                space, source_line(access.caller).c_str());
  }
  if ((!access.write || access.atomic) && (cell.written & bytes) != bytes) {
    device_fail("read of %s memory that nobody has written, at %s", space,
                source_line(access.caller).c_str());
  }
  if ((cell.write_bytes & bytes) != 0 && !(access.atomic && cell.write_atomic) &&
      !ordered(cell.write_block, cell.write_thread, cell.write_time)) {
    report_race(access.write ? "write after write" : "read after write", access, cell.write_block,
                cell.write_thread, cell.write_caller);
  }
  if (!access.write) return note_read(cell, bytes, access);
  if ((cell.read_bytes & bytes) != 0 && !readers_ordered(cell)) {
    report_race("write after read", access, cell.read_block, cell.read_thread, cell.read_caller);
  }
  note_write(cell, bytes, access);
}

unsigned bytes_within(std::size_t cell_begin, std::size_t begin, std::size_t end) {
  unsigned mask = 0;
  for (unsigned i = 0; i < 4; ++i) {
    if (cell_begin + i >= begin && cell_begin + i < end) mask |= 1u << i;
  }
  return mask;
}

// The cell of a place in a block's shared memory, made new when another block had the place before.
Cell& shared_cell(std::size_t offset) {
  const std::size_t number = offset / kSharedStride;
  if (number >= cluster.blocks.size())
    device_fail("access beyond the shared memory of the cluster");
  const Block& block = cluster.blocks[number];
  if (block.exited == threads_per_block()) {
    device_fail("access to the shared memory of a block that has exited");
  }
  Cell& cell = shared_cells[offset / 4];
  const std::uint64_t owner = std::uint64_t{launch_time} << 32 | block.number;
  if (cell.owner == owner) return cell;
  cell = {};
  cell.owner = owner;
  const std::size_t within = offset % kSharedStride / 4 * 4;
  for (const SharedRange& range : shared_ranges) {
    cell.valid |=
        static_cast<std::uint8_t>(bytes_within(within, range.offset, range.offset + range.bytes));
  }
  return cell;
}

Cell& heap_cell(const unsigned char* p) {
  if (heap_cells == nullptr) heap_cells = cells_for(kHeapBytes);
  const auto offset = static_cast<std::size_t>(p - heap_base);
  Cell& cell = heap_cells[offset / 4];
  if (cell.owner != 0) return cell;
  cell.owner = 1;
  const std::size_t first = offset / 4 * 4;
  // Allocations begin at multiples of 256: a cell belongs to one at most.
  const Allocation allocation = heap_find(heap_base + first);
  const auto begin = static_cast<std::size_t>(allocation.begin - heap_base);
  cell.valid =
      allocation.begin == nullptr
          ? std::uint8_t{0}
          : static_cast<std::uint8_t>(bytes_within(first, begin, begin + allocation.bytes));
  return cell;
}

// Memory of the thread itself, constants and variables of the program, and the kernel's arguments.
bool allowed_on_host(const unsigned char* p) {
  const auto* const program = reinterpret_cast<const unsigned char*>(&__executable_start);
  const auto* const program_end = reinterpret_cast<const unsigned char*>(&_end);
  return (p >= stacks_begin && p < stacks_end) || (p >= program && p < program_end) ||
         (p >= arguments_begin && p < arguments_end);
}

// Calls f(cell, mask) for each cell of device memory that has some of the bytes.
template <class F>
void for_cells(const void* p, std::size_t bytes, F f) {
  const auto offset = static_cast<std::size_t>(static_cast<const unsigned char*>(p) - heap_base);
  for (std::size_t cell = offset / 4 * 4; cell < offset + bytes; cell += 4) {
    f(heap_cell(heap_base + cell), bytes_within(cell, offset, offset + bytes));
  }
}

}  // namespace

void check_access(const void* p, std::size_t bytes, bool write, bool atomic, const void* caller) {
  if (current == nullptr) return;  // host code
  const auto* at = static_cast<const unsigned char*>(p);
  const bool shared = at >= shared_base && at < shared_base + kSharedStride * kMaxBlocksPerCluster;
  if (!shared && !on_device(p)) {
    if (allowed_on_host(at)) return;
    device_fail("%s of host memory %p at %s", write ? "write" : "read", p,
                source_line(caller).c_str());
  }
  if (shared && shared_cells == nullptr) {
    shared_cells = cells_for(kSharedStride * kMaxBlocksPerCluster);
  }
  const Access access = {p, write, atomic, shared, caller};
  while (bytes > 0) {
    const auto first = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(at) % 4);
    const auto count = static_cast<unsigned>(std::min<std::size_t>(bytes, 4 - first));
    const unsigned mask = ((1u << count) - 1) << first;
    Cell& cell = shared ? shared_cell(static_cast<std::size_t>(at - shared_base)) : heap_cell(at);
    check_cell(cell, mask, access);
    at += count;
    bytes -= count;
  }
}

void note_async_write(const void* p, std::size_t bytes) {
  const auto* const at = static_cast<const unsigned char*>(p);
  for (std::size_t i = 0; i < bytes; i += 4) {
    shared_cell(static_cast<std::size_t>(at + i - shared_base)).write_async = true;
  }
}

// What threads wrote is no operand before they said so.
void check_async_read(const void* p, std::size_t bytes, Site site) {
  check_access(p, bytes, false, false, __builtin_return_address(0));
  const auto* const at = static_cast<const unsigned char*>(p);
  for (std::size_t i = 0; i < bytes; i += 4) {
    const Cell& cell = shared_cell(static_cast<std::size_t>(at + i - shared_base));
    const Thread& writer = current->block->threads[cell.write_thread];
    if (cell.write_async || cell.write_time < writer.proxy_fence) continue;
    device_fail(
        "wgmma at %s:%d: thread %u wrote an operand, at %s, without fence.proxy.async after it",
        site.file, site.line, unsigned{cell.write_thread}, source_line(cell.write_caller).c_str());
  }
}

// New and freed memory: cells forget what was, and ask on their next use whom they belong to.
void note_allocation(const void* p, std::size_t bytes) {
  if (heap_cells == nullptr) return;
  const auto first = static_cast<std::size_t>(static_cast<const unsigned char*>(p) - heap_base) / 4;
  std::fill_n(heap_cells + first, (bytes + 3) / 4, Cell{});
}

void note_written(const void* p, std::size_t bytes) {
  for_cells(p, bytes,
            [](Cell& cell, unsigned mask) { cell.written |= static_cast<std::uint8_t>(mask); });
}

void note_forbidden(const void* p, std::size_t bytes) {
  for_cells(p, bytes,
            [](Cell& cell, unsigned mask) { cell.valid &= static_cast<std::uint8_t>(~mask); });
}

}  // namespace emu

// --- What the compiler, which is GCC, calls ------------------------------------------------------

#define EMU_ACCESS_OF(name, write, bytes)                                   \
  void __tsan_##name##bytes(void* p) {                                      \
    emu::check_access(p, bytes, write, false, __builtin_return_address(0)); \
  }
#define EMU_ACCESS(name, write)                                             \
  void __tsan_##name##_range(void* p, std::size_t bytes) {                  \
    emu::check_access(p, bytes, write, false, __builtin_return_address(0)); \
  }                                                                         \
  EMU_ACCESS_OF(name, write, 1)                                             \
  EMU_ACCESS_OF(name, write, 2)                                             \
  EMU_ACCESS_OF(name, write, 4)                                             \
  EMU_ACCESS_OF(name, write, 8)                                             \
  EMU_ACCESS_OF(name, write, 16)

// Atomics in the host code of a .cu file, of a std::shared_ptr for instance. Kernels have none but
// CUDA's.
#define EMU_ATOMIC_HOOKS(bits, T)                                                           \
  T __tsan_atomic##bits##_load(const volatile T* p, int) {                                  \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                            \
  }                                                                                         \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) {                               \
    __atomic_store_n(p, v, __ATOMIC_SEQ_CST);                                               \
  }                                                                                         \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) {                               \
    return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST);                                     \
  }                                                                                         \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) {                              \
    return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST);                                      \
  }                                                                                         \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) {                              \
    return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST);                                      \
  }                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* c, T v, int, int) {   \
    return __atomic_compare_exchange_n(p, c, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }                                                                                         \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* c, T v, int, int) {     \
    return __atomic_compare_exchange_n(p, c, v, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);  \
  }

extern "C" {
void __tsan_init() {}
void __tsan_vptr_update(void**, void*) {}
void __tsan_atomic_thread_fence(int) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
void __tsan_atomic_signal_fence(int) {}
EMU_ACCESS(read, false)
EMU_ACCESS(write, true)
EMU_ATOMIC_HOOKS(8, std::uint8_t)
EMU_ATOMIC_HOOKS(32, std::uint32_t)
EMU_ATOMIC_HOOKS(64, std::uint64_t)
}
