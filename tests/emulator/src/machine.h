#pragma once

// What the emulator's files share: the threads and blocks that run, their memory, the logical clock
// of the race check.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "emu/device.h"
#include "emu/emulator.h"
#include "emu/runtime.h"
#include "fiber.h"

namespace emu {

constexpr unsigned kMaxThreadsPerBlock = 1024;
constexpr unsigned kMaxBlocksPerCluster = 8;  // what every device with clusters has
constexpr std::size_t kSharedWithoutAsking = 48 * 1024;

// Several threads of the system may use the machine, one at a time: while one lives, no other does
// anything with it. Every call that the program makes has one. Who has waited longest is the next,
// so that the calls of several threads really alternate.
class Locked {
 public:
  Locked();
  ~Locked();
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;
};

// --- Threads and blocks of the running cluster ---------------------------------------------------

struct Block;

// A copy to shared memory that its thread has not waited for yet.
struct PendingCopy {
  void* to;
  const void* from;
  unsigned bytes;
  unsigned source_bytes;
  unsigned group;
};

// A product of a warp group that nobody has waited for yet, one thread's part.
struct Wgmma {
  float* d;
  unsigned columns;
  std::uint64_t a, b;
  bool add;
  unsigned group;
  Site site;
  std::vector<float> before;  // what stood in d, where no earlier product gives it
};

struct Thread {
  ThreadPlace place;
  uint3 index;
  Block* block;
  Fiber* fiber;
  bool done;
  bool blocked;
  const char* waits_in;  // what it is blocked in,
  Site site;             // and where
  bool arrived_at_cluster_barrier;
  unsigned cluster_barrier;  // that it arrived at
  std::vector<PendingCopy> copies;
  unsigned copy_groups;  // committed so far
  std::vector<Wgmma> wgmmas;
  unsigned wgmma_groups;  // committed so far
  bool wgmma_fenced;
  // Race check: up to when the accesses of each lane of its warp happened before this thread's next
  // one. Empty when accesses are not checked.
  std::vector<std::uint32_t> seen;
  // The same of each thread of the cluster, by mbarriers; empty where there was none.
  std::vector<std::uint32_t> met;
  std::uint32_t proxy_fence;  // its last fence.proxy.async
};

// A copy that reports to an mbarrier, under way.
struct BulkCopy {
  void* to;
  const void* from;
  unsigned bytes;
  const Thread* by;
};

// A barrier in shared memory, in one phase after the other.
struct Mbarrier {
  const void* at;
  unsigned arrivals;  // of a phase
  unsigned arrived;
  std::uint64_t expected;  // bytes
  unsigned phase;
  std::vector<BulkCopy> copies;
  std::vector<Thread*> waiting;
  // Race check: what happened before this phase's end, and the last one's, by thread of the
  // cluster.
  std::vector<std::uint32_t> joining, joined;
};

// Lanes of a warp that wait for each other.
struct WarpMeeting {
  unsigned mask;
  unsigned arrived;
  WarpFunction function;
  Site site;
  void* arguments[32];
  Thread* threads[32];
};

struct Block {
  uint3 index;
  unsigned number;      // in the grid
  unsigned in_cluster;  // its place in the cluster
  Thread* threads;
  unsigned char* shared;
  unsigned exited;  // threads
  // __syncthreads. Votes alternate between two places: threads of the last barrier may not have
  // read theirs when the first comes to the next one.
  unsigned arrived;
  unsigned barrier;
  int votes[2];
  Site site;
  std::vector<Thread*> waiting;
  std::vector<std::vector<WarpMeeting>> meetings;  // by warp
  std::vector<Mbarrier> mbarriers;
  std::vector<std::vector<Thread*>> warpgroups;  // in wgmma.wait_group
  std::uint32_t barrier_time;                    // race check
};

struct Cluster {
  std::vector<Block> blocks;
  std::vector<Thread> threads;  // of all blocks
  unsigned arrived;
  unsigned barrier;
  Site site;
  std::vector<Thread*> waiting;
  std::uint32_t barrier_time;  // race check
};

extern Cluster cluster;
// The running thread; null in host code. Of one thread of the system: others run host code
// meanwhile.
extern thread_local Thread* current;

inline std::size_t volume(dim3 extent) {
  return std::size_t{extent.x} * extent.y * extent.z;
}
inline unsigned threads_per_block() {
  return static_cast<unsigned>(volume(blockDim));
}

// The running thread cannot go on: others run until somebody has made it ready.
void block_current(const char* waits_in, Site site);
void make_ready(std::vector<Thread*>& threads);  // and empties the list
// Runs all threads of the cluster to their end, as fibers. Throws the Error of device_fail.
void run_cluster(const KernelCall& call);

// Runs a kernel's whole grid; in all three orders, where the options say so.
struct LaunchShape {
  dim3 grid;
  dim3 block;
  dim3 cluster;
  std::size_t dynamic_shared;
};
void run_launch(const LaunchShape& shape, const KernelCall& call);

// Puts work into a stream, or into the graph that it captures.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);
// The error that all calls return now: no driver, no device, an earlier fault; or cudaSuccess.
cudaError_t machine_error();
extern cudaError_t fault;               // the latter: sticks until reset()
cudaError_t failed(cudaError_t error);  // remembers it for cudaGetLastError
bool counts_down(std::int64_t& n);      // of Faults: whether this is the n-th
void forget_function_attributes();
void reset_options();

// Random numbers for the random order; seeded for each launch.
void seed_order(std::uint64_t seed);
std::uint64_t random_number();
template <class T>
void shuffle_order(std::vector<T>& values) {
  for (std::size_t n = values.size(); n > 1; --n)
    std::swap(values[n - 1], values[random_number() % n]);
}

extern Counters counts;

// A tensor core's sum in fp32: what that does not hold is cut off, not rounded.
float cut_off(double x);

// --- Shared memory -------------------------------------------------------------------------------

// Every block of the cluster has its own stretch, at a fixed distance from the next.
constexpr std::size_t kSharedStride = 320 * 1024;
constexpr std::size_t kRedzone = 128;  // between objects
extern unsigned char* shared_base;

// A part of a block's stretch that the running kernel may use: the same in every block.
struct SharedRange {
  std::size_t offset;
  std::size_t bytes;
};
extern std::vector<SharedRange> shared_ranges;

void begin_shared_memory(std::size_t dynamic_bytes, unsigned blocks);  // once a launch
void poison_shared_memory(const Block& block);                         // before a block begins
void retire_shared_memory(const Block& block);  // once its threads have exited

// --- Device memory -------------------------------------------------------------------------------

constexpr std::size_t kHeapBytes = std::size_t{8} << 30;  // of addresses
extern unsigned char* heap_base;

bool on_device(const void* p);
void* heap_allocate(std::size_t bytes);  // null when the addresses are used up
bool heap_free(void* p);                 // false for what is no live allocation
// The live allocation that holds `p`, or one of 0 bytes.
struct Allocation {
  unsigned char* begin;
  std::size_t bytes;
};
Allocation heap_find(const void* p);
bool heap_holds(const void* p, std::size_t bytes);  // all of them, in one live allocation
// Calls f(allocation) in the order of addresses.
void heap_each(const std::function<void(const Allocation&)>& f);

// While one lives, device memory can be touched.
class HeapAccess {
 public:
  HeapAccess();
  ~HeapAccess();
  HeapAccess(const HeapAccess&) = delete;
  HeapAccess& operator=(const HeapAccess&) = delete;
};

// --- Reports -------------------------------------------------------------------------------------

std::string format(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string kernel_name(const void* function);
std::string place_of(const Thread& thread);
std::string source_line(const void* return_address);
// Messages for what would else be a bare crash; once, and in each thread that runs kernels.
void catch_signals();
void prepare_thread_for_signals();
extern const void* running_kernel;  // null outside of launches

// --- Race check (race_check.cpp, only in that build) ---------------------------------------------

// Counts barriers, launches and what else orders memory.
extern std::uint32_t logical_time;
extern std::uint32_t launch_time;
// Host memory that the running kernel may read: its arguments.
extern const unsigned char* arguments_begin;
extern const unsigned char* arguments_end;
extern unsigned char* stacks_begin;
extern unsigned char* stacks_end;

// What happened before `from` happened before `to`, too.
void join_times(std::vector<std::uint32_t>& to, const std::vector<std::uint32_t>& from);

void check_access(const void* p, std::size_t bytes, bool write, bool atomic, const void* caller)
    __attribute__((weak));
// Of shared memory: by a bulk copy; as an operand of wgmma.
void note_async_write(const void* p, std::size_t bytes) __attribute__((weak));
void check_async_read(const void* p, std::size_t bytes, Site site) __attribute__((weak));
void note_allocation(const void* p, std::size_t bytes) __attribute__((weak));
void note_written(const void* p, std::size_t bytes) __attribute__((weak));
void note_forbidden(const void* p, std::size_t bytes) __attribute__((weak));

}  // namespace emu
