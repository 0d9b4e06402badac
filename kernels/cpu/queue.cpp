#include "kernels/queue.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "kernels/cpu/cores.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sidechannel::kernels {
namespace {

constexpr std::size_t kAlignment = 64;  // of a cache line, and of the widest vectors

// How long a thread spins before it sleeps. Kernels of one training step follow each other within
// microseconds, and waking a sleeping thread costs more than a small kernel does.
constexpr int kSpins = 20000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Waits until `value` is no longer `old`: spins first, then sleeps.
template <class T>
void wait_while_equal(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
}

struct FreeAligned {
  void operator()(void* p) const { std::free(p); }
};

}  // namespace

// One round of work is one kernel. Its part i belongs to worker i, but whoever comes first may take
// it: when the machine runs something else on a worker's core, the caller does not wait for a
// thread that sleeps, but does its part itself.
struct CpuQueue::Team {
  struct alignas(64) Slot {
    std::atomic<std::uint32_t> claimed{0};   // the last round in which part i was taken,
    std::atomic<std::uint32_t> finished{0};  // and the last in which it was done by its worker
  };
  std::atomic<std::uint32_t> round{0};
  // Of the current round. Written between rounds, when no part is claimed and unfinished; read only
  // after a claim, which a thread that is a round late cannot make.
  Function function = nullptr;
  void* body = nullptr;
  std::int64_t count = 0;
  int parts = 1;
  bool quit = false;

  std::unique_ptr<Slot[]> slots;
  std::vector<std::thread> workers;
  std::unique_ptr<void, FreeAligned> scratch;
  std::size_t scratch_bytes = 0;

  // True for one thread a round: each claim moves the slot on by exactly one.
  bool claim(int part, std::uint32_t current) const {
    std::uint32_t before = current - 1;
    return slots[static_cast<std::size_t>(part)].claimed.compare_exchange_strong(
        before, current, std::memory_order_acq_rel);
  }
  void run_part(int part) const {
    if (part < parts) function(body, count * part / parts, count * (part + 1) / parts);
  }
  void work(int part) {
    Slot& slot = slots[static_cast<std::size_t>(part)];
    for (std::uint32_t seen = 0;;) {
      wait_while_equal(round, seen);
      seen = round.load(std::memory_order_acquire);
      if (!claim(part, seen)) continue;
      if (quit) return;
      run_part(part);
      slot.finished.store(seen, std::memory_order_release);
      slot.finished.notify_one();
    }
  }
};

CpuQueue::CpuQueue(int threads, ConvGradients gradients)
    : threads_(std::min(threads > 0 ? threads : usable_cores(), kMostThreads)),
      conv_gradients_(gradients),
      team_(std::make_unique<Team>()) {
  team_->slots = std::make_unique<Team::Slot[]>(static_cast<std::size_t>(threads_));
  for (int part = 1; part < threads_; ++part) {
    try {
      team_->workers.emplace_back([team = team_.get(), part] { team->work(part); });
    } catch (const std::system_error&) {  // a limit of the user, the group or the system
      threads_ = part;
    }
  }
}

CpuQueue::~CpuQueue() {
  team_->quit = true;
  team_->round.fetch_add(1, std::memory_order_acq_rel);
  team_->round.notify_all();
  for (std::thread& worker : team_->workers) worker.join();
}

void CpuQueue::run(std::int64_t count, std::int64_t grain, Function function, void* body) {
  if (count <= 0) return;
  const std::int64_t most = std::max<std::int64_t>(1, count / std::max<std::int64_t>(1, grain));
  const int parts = static_cast<int>(std::min<std::int64_t>(threads_, most));
  if (parts == 1) return function(body, 0, count);

  Team& team = *team_;
  team.function = function;
  team.body = body;
  team.count = count;
  team.parts = parts;
  const std::uint32_t current = team.round.fetch_add(1, std::memory_order_acq_rel) + 1;
  team.round.notify_all();
  team.run_part(0);
  for (int part = 1; part < threads_; ++part) {
    if (team.claim(part, current)) {
      team.run_part(part);
      continue;
    }
    const std::atomic<std::uint32_t>& finished =
        team.slots[static_cast<std::size_t>(part)].finished;
    for (std::uint32_t last = finished.load(std::memory_order_acquire); last != current;
         last = finished.load(std::memory_order_acquire)) {
      wait_while_equal(finished, last);
    }
  }
}

std::shared_ptr<void> CpuQueue::allocate(std::size_t bytes) {
  void* memory = std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  if (memory == nullptr) throw std::bad_alloc();
  return {memory, [](void* p) { std::free(p); }};
}

void CpuQueue::copy(void* to, const void* from, std::size_t bytes) {
  std::memcpy(to, from, bytes);
}

void* CpuQueue::scratch(std::size_t bytes) {
  Team& team = *team_;
  if (bytes > team.scratch_bytes) {
    const std::size_t rounded = (bytes + 4095) / 4096 * 4096;
    team.scratch.reset(std::aligned_alloc(kAlignment, rounded));
    if (team.scratch == nullptr) throw std::bad_alloc();
    team.scratch_bytes = rounded;
  }
  return team.scratch.get();
}

}  // namespace sidechannel::kernels
