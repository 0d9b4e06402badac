// Runs the threads of one cluster as fibers, and lets them meet at barriers and warp operations.
//
// A fiber runs threads one after the other until one of them has to wait; then it belongs to that
// thread until it goes on, and another fiber takes over. So a kernel without barriers costs no
// switch at all.

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <thread>
#include <utility>

#include "asan.h"
#include "machine.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace emu {

ThreadPlace self;
GridView grid_view;
Cluster cluster;
thread_local Thread* current = nullptr;
std::uint32_t logical_time = 1;
unsigned char* stacks_begin = nullptr;
unsigned char* stacks_end = nullptr;
Counters counts;

namespace {

constexpr std::size_t kStackBytes = kAsan ? 256 * 1024 : 64 * 1024;
constexpr std::size_t kGuardBytes = 4096;  // a stack that overflows runs into these
constexpr std::size_t kMaxFibers = kMaxBlocksPerCluster * kMaxThreadsPerBlock;

std::vector<Fiber> fibers;
std::vector<Fiber*> idle;  // fibers that wait in worker() for something to do
Fiber host;                // the caller of run_cluster
Fiber* running = nullptr;

const KernelCall* kernel_call = nullptr;
std::vector<Thread*> unstarted;  // taken from the back
std::vector<Thread*> ready;      // threads that can go on, in the order in which they became ready;
std::size_t ready_begin = 0;     // those before this are gone
unsigned alive = 0;
std::string error;

std::uint64_t random_state = 1;

bool any_ready() {
  return ready_begin < ready.size();
}

void go_to(Fiber* next) {
  Fiber* const me = running;
  if (next == me) return;
  running = next;
  fiber_switch(*me, *next);
}

void become(Thread* thread) {
  current = thread;
  self = thread->place;
  threadIdx = thread->index;
  blockIdx = thread->block->index;
}

Thread* take_ready() {
  switch (options().order) {
    case Order::kFirstIn:
      return ready[ready_begin++];
    case Order::kRandom:
      std::swap(ready[ready_begin + random_number() % (ready.size() - ready_begin)], ready.back());
      break;
    case Order::kLastIn:
      break;
  }
  Thread* const thread = ready.back();
  ready.pop_back();
  return thread;
}

// In the random order: whether to do the one or the other of two possible things.
bool toss() {
  return options().order == Order::kRandom && (random_number() & 1) != 0;
}

[[noreturn]] void leave_kernel() {
  go_to(&host);
  std::abort();  // nobody switches back
}

// Where everybody waits.
std::string deadlock_text() {
  struct Waiting {
    int threads = 0;
    std::string first;
  };
  std::map<std::string, Waiting> by_site;
  for (const Thread& thread : cluster.threads) {
    if (!thread.blocked) continue;
    Waiting& waiting =
        by_site[format("%s at %s:%d", thread.waits_in, thread.site.file, thread.site.line)];
    if (waiting.threads++ == 0) waiting.first = place_of(thread);
  }
  std::string text = "deadlock in kernel " + kernel_name(running_kernel) + ":";
  const char* separator = " ";
  for (const auto& [site, waiting] : by_site) {
    text += format("%s%d threads wait in %s (the first is %s)", separator, waiting.threads,
                   site.c_str(), waiting.first.c_str());
    separator = "; ";
  }
  return text;
}

[[noreturn]] void report_deadlock() {
  error = deadlock_text();
  leave_kernel();  // with nothing on this stack that needs a destructor
}

void worker();

Fiber* idle_fiber() {
  if (!idle.empty()) {
    Fiber* const fiber = idle.back();
    idle.pop_back();
    return fiber;
  }
  if (fibers.size() == kMaxFibers) std::abort();  // one for each thread there can be
  Fiber& fiber = fibers.emplace_back();
  fiber.stack = reinterpret_cast<char*>(stacks_begin) + (fibers.size() - 1) * kStackBytes;
  mprotect(fiber.stack, kGuardBytes, PROT_NONE);
  fiber.stack += kGuardBytes;
  fiber.stack_bytes = kStackBytes - kGuardBytes;
  fiber_prepare(fiber, worker);
  return &fiber;
}

void on_exit(Thread* thread) {
  Block* const block = thread->block;
  thread->done = true;
  if (!thread->copies.empty()) {
    device_fail("the thread exits without having waited for its cp.async");
  }
  if (!thread->wgmmas.empty()) {
    device_fail("the thread exits without having waited for its wgmma at %s:%d",
                thread->wgmmas.front().site.file, thread->wgmmas.front().site.line);
  }
  if (block->arrived > 0) {
    device_fail("the thread exits while %u threads of its block wait in __syncthreads at %s:%d",
                block->arrived, block->site.file, block->site.line);
  }
  for (const WarpMeeting& meeting : block->meetings[thread->place.warp]) {
    if ((meeting.mask >> thread->place.lane & 1) == 0) continue;
    device_fail("the thread exits while lanes of its warp wait for it at %s:%d (mask 0x%08x)",
                meeting.site.file, meeting.site.line, meeting.mask);
  }
  ++block->exited;
  --alive;
  for (const Mbarrier& barrier : block->mbarriers) {
    if (block->exited < threads_per_block() || barrier.copies.empty()) continue;
    device_fail("the block exits while a bulk copy to its shared memory is under way");
  }
  if (block->exited == threads_per_block()) retire_shared_memory(*block);
}

// What every fiber runs: threads that have not begun, then whoever can go on.
void worker() {
  fiber_entered();
  for (;;) {
    while (!unstarted.empty()) {
      Thread* const thread = unstarted.back();
      unstarted.pop_back();
      become(thread);
      kernel_call->run_thread();
      on_exit(thread);
      if (any_ready() && !toss()) break;
    }
    if (any_ready()) {
      Thread* const thread = take_ready();
      idle.push_back(running);
      go_to(thread->fiber);
    } else if (alive == 0) {
      idle.push_back(running);
      go_to(&host);
    } else if (unstarted.empty()) {
      report_deadlock();
    }
  }
}

void forget_all_frames() {
  idle.clear();
  for (Fiber& fiber : fibers) {
    fiber_prepare(fiber, worker);
    idle.push_back(&fiber);
  }
  ready.clear();
  unstarted.clear();
}

void reserve_stacks() {
  if (stacks_begin != nullptr) return;
  void* const p = mmap(nullptr, kStackBytes * kMaxFibers, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw Error("the emulator gets no memory for its threads' stacks");
  stacks_begin = static_cast<unsigned char*>(p);
  stacks_end = stacks_begin + kStackBytes * kMaxFibers;
  fibers.reserve(kMaxFibers);  // pointers to them stay valid
}

}  // namespace

void make_ready(std::vector<Thread*>& threads) {
  if (options().order == Order::kRandom) shuffle_order(threads);
  if (ready_begin > 4096) {
    ready.erase(ready.begin(), ready.begin() + static_cast<std::ptrdiff_t>(ready_begin));
    ready_begin = 0;
  }
  ready.insert(ready.end(), threads.begin(), threads.end());
  threads.clear();
}

void block_current(const char* waits_in, Site site) {
  Thread* const thread = current;
  thread->waits_in = waits_in;
  thread->site = site;
  thread->blocked = true;
  thread->fiber = running;
  if (!unstarted.empty() && (!any_ready() || toss())) {
    go_to(idle_fiber());
  } else if (any_ready()) {
    go_to(take_ready()->fiber);
  } else {
    report_deadlock();
  }
  thread->blocked = false;
  become(thread);
}

void join_times(std::vector<std::uint32_t>& to, const std::vector<std::uint32_t>& from) {
  if (to.size() < from.size()) to.resize(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) to[i] = std::max(to[i], from[i]);
}

void seed_order(std::uint64_t seed) {
  random_state = seed * 0x9e3779b97f4a7c15u | 1;
}

std::uint64_t random_number() {  // xorshift64
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state;
}

void run_cluster(const KernelCall& call) {
  reserve_stacks();
  // A fiber stays in one thread of the system: what it waits in may know where `current` lies.
  static std::thread::id fibers_of;
  if (fibers_of != std::this_thread::get_id()) {
    fibers_of = std::this_thread::get_id();
    forget_all_frames();
    prepare_thread_for_signals();
  }
  kernel_call = &call;
  alive = static_cast<unsigned>(cluster.threads.size());
  ready.clear();
  ready_begin = 0;
  unstarted.clear();
  for (Thread& thread : cluster.threads) unstarted.push_back(&thread);
  if (options().order == Order::kFirstIn) std::reverse(unstarted.begin(), unstarted.end());
  if (options().order == Order::kRandom) shuffle_order(unstarted);
  host = Fiber();
  running = &host;
  go_to(idle_fiber());
  current = nullptr;
  running = nullptr;
  if (error.empty()) return;
  forget_all_frames();
  throw Error(std::exchange(error, {}));
}

void device_fail(const char* format_text, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format_text);
  std::vsnprintf(text, sizeof text, format_text, arguments);
  va_end(arguments);
  if (current == nullptr) throw Error(text);
  error = std::string(text) + "; kernel " + kernel_name(running_kernel) + ", " + place_of(*current);
  leave_kernel();
}

int sync_block(Vote vote, int predicate, Site site) {
  Thread* const thread = current;
  Block* const block = thread->block;
  if (block->exited > 0) {
    device_fail("__syncthreads at %s:%d after %u threads of the block have exited", site.file,
                site.line, block->exited);
  }
  int& votes = block->votes[block->barrier & 1];
  if (block->arrived == 0) {
    block->site = site;
    votes = vote == Vote::kAll ? 1 : 0;
  } else if (!(block->site == site)) {
    device_fail("divergent __syncthreads: at %s:%d, while other threads of the block wait at %s:%d",
                site.file, site.line, block->site.file, block->site.line);
  }
  if (vote == Vote::kCount) votes += predicate != 0;
  if (vote == Vote::kAny) votes |= static_cast<int>(predicate != 0);
  if (vote == Vote::kAll) votes &= static_cast<int>(predicate != 0);
  block->waiting.push_back(thread);
  if (++block->arrived < threads_per_block()) {
    block_current("__syncthreads", site);
    return votes;
  }
  block->arrived = 0;
  ++block->barrier;
  block->barrier_time = ++logical_time;
  // The last to come goes on at once, except in the random order, where anyone may be first.
  const bool wait = options().order == Order::kRandom && block->waiting.size() > 1;
  if (!wait) block->waiting.pop_back();
  make_ready(block->waiting);
  if (wait) block_current("__syncthreads", site);
  return votes;
}

namespace {

WarpMeeting& meeting_of(unsigned mask, WarpFunction function, Site site) {
  const Block& block = *current->block;
  std::vector<WarpMeeting>& meetings = current->block->meetings[current->place.warp];
  for (WarpMeeting& meeting : meetings) {
    if (meeting.mask == mask) return meeting;
  }
  const unsigned first = current->place.warp * 32;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    if (first + lane >= threads_per_block() || block.threads[first + lane].done) {
      device_fail("mask 0x%08x at %s:%d names lane %u, which does not exist or has exited", mask,
                  site.file, site.line, lane);
    }
  }
  for (const WarpMeeting& other : meetings) {
    if ((other.mask & mask) == 0) continue;
    device_fail("mask 0x%08x at %s:%d overlaps mask 0x%08x that lanes wait with at %s:%d", mask,
                site.file, site.line, other.mask, other.site.file, other.site.line);
  }
  return meetings.emplace_back(WarpMeeting{mask, 0, function, site, {}, {}});
}

// Race check: what any of the lanes has seen, all of them have now.
void join_lanes(const WarpMeeting& meeting) {
  ++logical_time;
  std::vector<std::uint32_t> joined(32), met;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((meeting.mask >> lane & 1) == 0) continue;
    const std::vector<std::uint32_t>& seen = meeting.threads[lane]->seen;
    for (unsigned other = 0; other < 32; ++other) {
      joined[other] = std::max(joined[other], seen[other]);
    }
    join_times(met, meeting.threads[lane]->met);
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((meeting.mask >> lane & 1) != 0) joined[lane] = logical_time;
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((meeting.mask >> lane & 1) == 0) continue;
    meeting.threads[lane]->seen = joined;
    meeting.threads[lane]->met = met;
  }
}

}  // namespace

void warp_collective(unsigned mask, void* mine, WarpFunction function, Site site,
                     bool orders_memory) {
  Thread* const thread = current;
  const unsigned lane = thread->place.lane;
  if ((mask >> lane & 1) == 0) {
    device_fail("mask 0x%08x at %s:%d does not name the calling lane %u", mask, site.file,
                site.line, lane);
  }
  WarpMeeting& meeting = meeting_of(mask, function, site);
  if (!(meeting.site == site) || meeting.function != function) {
    device_fail("divergent warp operation: at %s:%d, while other lanes wait at %s:%d", site.file,
                site.line, meeting.site.file, meeting.site.line);
  }
  meeting.arrived |= 1u << lane;
  meeting.arguments[lane] = mine;
  meeting.threads[lane] = thread;
  if (meeting.arrived != mask) return block_current("a warp operation", site);

  if (function != nullptr) {
    void* arguments[32];  // on this fiber's stack, which instrumented code may read
    std::copy(std::begin(meeting.arguments), std::end(meeting.arguments), arguments);
    function(arguments, mask);
  }
  if (orders_memory && check_access != nullptr) join_lanes(meeting);

  static std::vector<Thread*> others;
  for (unsigned other = 0; other < 32; ++other) {
    if ((mask >> other & 1) != 0 && other != lane) others.push_back(meeting.threads[other]);
  }
  std::vector<WarpMeeting>& meetings = thread->block->meetings[thread->place.warp];
  meetings.erase(meetings.begin() + (&meeting - meetings.data()));
  const bool wait = options().order == Order::kRandom && !others.empty();
  if (wait) others.push_back(thread);
  make_ready(others);
  if (wait) block_current("a warp operation", site);
}

void cluster_arrive(Site site) {
  Thread* const thread = current;
  if (thread->arrived_at_cluster_barrier) {
    device_fail("second arrival at the cluster's barrier without a wait, at %s:%d", site.file,
                site.line);
  }
  for (const Block& block : cluster.blocks) {
    if (block.exited == 0) continue;
    device_fail("barrier of the cluster at %s:%d after threads of the cluster have exited",
                site.file, site.line);
  }
  if (cluster.arrived == 0) {
    cluster.site = site;
  } else if (!(cluster.site == site)) {
    device_fail("divergent barrier of the cluster: at %s:%d, while others wait at %s:%d", site.file,
                site.line, cluster.site.file, cluster.site.line);
  }
  thread->arrived_at_cluster_barrier = true;
  thread->cluster_barrier = cluster.barrier;
  if (++cluster.arrived < cluster.threads.size()) return;
  cluster.arrived = 0;
  ++cluster.barrier;
  cluster.barrier_time = ++logical_time;
  for (Block& block : cluster.blocks) block.barrier_time = logical_time;
  make_ready(cluster.waiting);
}

void cluster_wait(Site site) {
  Thread* const thread = current;
  if (!thread->arrived_at_cluster_barrier) {
    device_fail("wait at the cluster's barrier without an arrival, at %s:%d", site.file, site.line);
  }
  thread->arrived_at_cluster_barrier = false;
  if (thread->cluster_barrier != cluster.barrier) return;
  cluster.waiting.push_back(thread);
  block_current("the cluster's barrier", site);
}

}  // namespace emu
