#include "kernels/queue.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sidechannel::kernels {
namespace {

// How long a thread spins before it sleeps. Kernels of one training step follow each other within
// microseconds, and waking a sleeping thread costs more than a small kernel does.
constexpr int kSpins = 20000;

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

int usable_cores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
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

struct CpuQueue::Team {
  std::atomic<std::uint32_t> round{0};  // one more for each kernel; the workers wait for it
  std::atomic<int> working{0};          // workers that have not finished this round yet
  bool quit = false;
  Function function = nullptr;  // these four are published by `round`
  void* body = nullptr;
  std::int64_t count = 0;
  int parts = 1;
  std::vector<std::thread> workers;
  std::unique_ptr<void, FreeAligned> scratch;
  std::size_t scratch_bytes = 0;

  void run_part(int part) const {
    if (part < parts) function(body, count * part / parts, count * (part + 1) / parts);
  }
  void work(int part) {
    for (std::uint32_t seen = 0;;) {
      wait_while_equal(round, seen);
      seen = round.load(std::memory_order_acquire);
      if (quit) return;
      run_part(part);
      if (working.fetch_sub(1, std::memory_order_acq_rel) == 1) working.notify_one();
    }
  }
};

CpuQueue::CpuQueue(int threads)
    : threads_(threads > 0 ? threads : usable_cores()), team_(std::make_unique<Team>()) {
  for (int part = 1; part < threads_; ++part) {
    team_->workers.emplace_back([team = team_.get(), part] { team->work(part); });
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
  team.working.store(threads_ - 1, std::memory_order_relaxed);
  team.round.fetch_add(1, std::memory_order_release);
  team.round.notify_all();
  team.run_part(0);
  for (int left = team.working.load(std::memory_order_acquire); left != 0;
       left = team.working.load(std::memory_order_acquire)) {
    wait_while_equal(team.working, left);
  }
}

void* CpuQueue::scratch(std::size_t bytes) {
  Team& team = *team_;
  if (bytes > team.scratch_bytes) {
    const std::size_t rounded = (bytes + 4095) / 4096 * 4096;
    team.scratch.reset(std::aligned_alloc(64, rounded));
    if (team.scratch == nullptr) throw std::bad_alloc();
    team.scratch_bytes = rounded;
  }
  return team.scratch.get();
}

}  // namespace sidechannel::kernels
