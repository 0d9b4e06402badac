// What Hopper does behind the backs of threads: barriers in shared memory that count arrivals and
// bytes (mbarrier), bulk copies that report to them, products of warp groups (wgmma).
//
// Everything is as late as it may be: copies arrive when their barrier's phase completes, products
// are taken when they are waited for. Until then NaN stands where they go.

#include <algorithm>
#include <cstring>

#include "emu/ptx.h"
#include "machine.h"

namespace emu {
namespace {

constexpr unsigned kWarpgroup = 128;  // threads

void need_hopper(const char* what, Site site) {
  if (device_model().compute_capability == 90) return;
  device_fail("%s at %s:%d needs compute capability 9.0", what, site.file, site.line);
}

bool in_block(const Block& block, const void* p, std::size_t bytes) {
  const auto* const at = static_cast<const unsigned char*>(p);
  return at >= block.shared && at + bytes <= block.shared + kSharedStride;
}

void check(const void* p, std::size_t bytes, bool write, bool atomic, const void* caller) {
  if (check_access != nullptr) check_access(p, bytes, write, atomic, caller);
}

// --- Barriers ------------------------------------------------------------------------------------

// What stands in the memory of one: whoever writes over it is found.
std::uint64_t mark_of(const void* barrier) {
  return reinterpret_cast<std::uintptr_t>(barrier) * 0x9e3779b97f4a7c15u;
}

Mbarrier& barrier_at(Block& block, const std::uint64_t* barrier, Site site, const void* caller) {
  for (Mbarrier& one : block.mbarriers) {
    if (one.at != barrier) continue;
    check(barrier, sizeof *barrier, false, true, caller);
    if (*barrier != mark_of(barrier)) {
      device_fail("mbarrier at %s:%d: its memory was written over", site.file, site.line);
    }
    return one;
  }
  device_fail("mbarrier at %s:%d was not initialized", site.file, site.line);
}

// Race check: all that the thread did until now.
void join_thread(std::vector<std::uint32_t>& to, const Thread& thread) {
  join_times(to, thread.met);
  to.resize(cluster.threads.size());
  to[static_cast<std::size_t>(&thread - cluster.threads.data())] = ++logical_time;
}

void complete_if_done(Mbarrier& barrier, Site site) {
  if (barrier.arrived < barrier.arrivals) return;
  std::uint64_t copied = 0;
  for (const BulkCopy& copy : barrier.copies) copied += copy.bytes;
  if (copied > barrier.expected) {
    device_fail("mbarrier at %s:%d: %llu bytes are copied, and %llu are expected", site.file,
                site.line, static_cast<unsigned long long>(copied),
                static_cast<unsigned long long>(barrier.expected));
  }
  if (copied < barrier.expected) return;
  for (const BulkCopy& copy : barrier.copies) {
    std::memcpy(copy.to, copy.from, copy.bytes);
    if (check_access != nullptr) join_thread(barrier.joining, *copy.by);
  }
  barrier.copies.clear();
  barrier.arrived = 0;
  barrier.expected = 0;
  ++barrier.phase;
  barrier.joined = std::exchange(barrier.joining, {});
  make_ready(barrier.waiting);
}

}  // namespace

void mbarrier_init(std::uint64_t* barrier, unsigned arrivals, Site site) {
  need_hopper("mbarrier", site);
  Block& block = *current->block;
  if (!in_block(block, barrier, sizeof *barrier) ||
      reinterpret_cast<std::uintptr_t>(barrier) % sizeof *barrier != 0 || arrivals == 0) {
    device_fail("mbarrier at %s:%d: not in this block's shared memory, misaligned, or of nobody",
                site.file, site.line);
  }
  check(barrier, sizeof *barrier, true, false, __builtin_return_address(0));
  *barrier = mark_of(barrier);
  for (const Mbarrier& one : block.mbarriers) {
    if (one.at == barrier) device_fail("second mbarrier.init at %s:%d", site.file, site.line);
  }
  Mbarrier one = {};
  one.at = barrier;
  one.arrivals = arrivals;
  block.mbarriers.push_back(std::move(one));
}

void mbarrier_arrive(std::uint64_t* barrier, unsigned expected_bytes, Site site) {
  Mbarrier& one = barrier_at(*current->block, barrier, site, __builtin_return_address(0));
  if (one.arrived == one.arrivals) {
    device_fail("mbarrier at %s:%d: more arrivals than the %u that it was made for", site.file,
                site.line, one.arrivals);
  }
  if (check_access != nullptr) join_thread(one.joining, *current);
  one.expected += expected_bytes;
  ++one.arrived;
  complete_if_done(one, site);
}

void mbarrier_wait(std::uint64_t* barrier, unsigned parity, Site site) {
  Thread* const thread = current;
  const void* const caller = __builtin_return_address(0);
  // Others make barriers meanwhile: no reference to one is kept.
  while (barrier_at(*thread->block, barrier, site, caller).phase % 2 == parity) {
    barrier_at(*thread->block, barrier, site, caller).waiting.push_back(thread);
    block_current("mbarrier.try_wait", site);
  }
  if (check_access != nullptr) {
    join_times(thread->met, barrier_at(*thread->block, barrier, site, caller).joined);
  }
}

// --- Bulk copies ---------------------------------------------------------------------------------

void cp_async_bulk(void* shared, const void* global, unsigned bytes, std::uint64_t* barrier,
                   unsigned blocks, Site site) {
  need_hopper("cp.async.bulk", site);
  const void* const caller = __builtin_return_address(0);
  Block& mine = *current->block;
  const auto misaligned = [](const void* p) {
    return reinterpret_cast<std::uintptr_t>(p) % 16 != 0;
  };
  if (bytes == 0 || bytes % 16 != 0 || misaligned(shared) || misaligned(global) ||
      !in_block(mine, shared, bytes)) {
    device_fail("cp.async.bulk at %s:%d of %u bytes: none, misaligned, or not to shared memory",
                site.file, site.line, bytes);
  }
  if (!heap_holds(global, bytes)) {
    device_fail("cp.async.bulk at %s:%d: the source is not in one allocation of global memory",
                site.file, site.line);
  }
  if (blocks == 0 || blocks >> cluster.blocks.size() != 0) {
    device_fail("cp.async.bulk at %s:%d: blocks 0x%x of a cluster of %zu", site.file, site.line,
                blocks, cluster.blocks.size());
  }
  check(global, bytes, false, false, caller);
  for (Block& block : cluster.blocks) {
    if ((blocks >> block.in_cluster & 1) == 0) continue;
    const std::ptrdiff_t distance = block.shared - mine.shared;
    auto* const to = static_cast<unsigned char*>(shared) + distance;
    auto* const its_barrier =
        reinterpret_cast<std::uint64_t*>(reinterpret_cast<unsigned char*>(barrier) + distance);
    if (block.exited == threads_per_block()) {
      device_fail("cp.async.bulk at %s:%d: block %u of the cluster has exited", site.file,
                  site.line, block.in_cluster);
    }
    Mbarrier& one = barrier_at(block, its_barrier, site, caller);
    check(to, bytes, true, false, caller);
    if (note_async_write != nullptr) note_async_write(to, bytes);
    std::memset(to, 0xff, bytes);
    one.copies.push_back({to, global, bytes, current});
    complete_if_done(one, site);
  }
}

// --- Products of warp groups ---------------------------------------------------------------------

void fence_proxy_async() {
  current->proxy_fence = ++logical_time;
}

const unsigned char* own_shared() {
  return current->block->shared;
}

void wgmma_fence() {
  current->wgmma_fenced = true;
}

void wgmma_m64k8_tf32(float* d, unsigned columns, std::uint64_t a, std::uint64_t b, bool add,
                      Site site) {
  need_hopper("wgmma", site);
  Thread& me = *current;
  if (columns == 0 || columns > 256 || columns % 8 != 0) {
    device_fail("wgmma at %s:%d of %u columns", site.file, site.line, columns);
  }
  if (!me.wgmma_fenced) device_fail("wgmma at %s:%d without wgmma.fence", site.file, site.line);
  const bool pending = std::any_of(me.wgmmas.begin(), me.wgmmas.end(),
                                   [d](const Wgmma& other) { return other.d == d; });
  Wgmma product = {d, columns, a, b, add, me.wgmma_groups, site, {}};
  if (!pending) {
    product.before.assign(d, d + columns / 2);
    std::memset(d, 0xff, columns / 2 * sizeof(float));
  }
  me.wgmmas.push_back(std::move(product));
}

void wgmma_commit_group() {
  ++current->wgmma_groups;
}

namespace {

// Four bytes of an operand: rows of 16 bytes, eight of them 128 bytes on end; the descriptor tells
// how far it is to the next four of k, and to the next eight rows (no swizzle).
const float* operand(std::uint64_t descriptor, unsigned row, unsigned k) {
  const auto field = [&](unsigned shift) { return (descriptor >> shift & 0x3fffu) << 4; };
  return reinterpret_cast<const float*>(current->block->shared + field(0) + k / 4 * field(16) +
                                        row / 8 * field(32) + row % 8 * 16 + k % 4 * 4);
}

void load_operand(std::uint64_t descriptor, unsigned rows, float (*to)[8], Site site) {
  if (descriptor >> 46 != 0) {
    device_fail("wgmma at %s:%d: a descriptor with a swizzle or an offset", site.file, site.line);
  }
  for (unsigned row = 0; row < rows; ++row) {
    for (unsigned k = 0; k < 8; k += 4) {
      const float* const from = operand(descriptor, row, k);
      if (check_async_read != nullptr) check_async_read(from, 16, site);
      std::memcpy(to[row] + k, from, 16);
    }
    for (unsigned k = 0; k < 8; ++k) {
      if ((bits_as<std::uint32_t>(to[row][k]) & 0x1fffu) == 0 || std::isnan(to[row][k])) continue;
      device_fail("wgmma at %s:%d: an operand is not rounded to TF32", site.file, site.line);
    }
  }
}

// One product of all threads of a warp group.
void multiply(Thread* const* threads, std::size_t index) {
  const Wgmma& first = threads[0]->wgmmas[index];
  float a[64][8];
  float b[256][8];
  load_operand(first.a, 64, a, first.site);
  load_operand(first.b, first.columns, b, first.site);
  for (unsigned t = 0; t < kWarpgroup; ++t) {
    Wgmma& product = threads[t]->wgmmas[index];
    if (!product.before.empty()) {
      std::copy(product.before.begin(), product.before.end(), product.d);
    }
    for (unsigned i = 0; i < product.columns / 2; ++i) {
      const unsigned row = t / 32 * 16 + t % 32 / 4 + i % 4 / 2 * 8;
      const unsigned column = i / 4 * 8 + t % 4 * 2 + i % 2;
      double sum = product.add ? product.d[i] : 0;
      for (unsigned k = 0; k < 8; ++k) sum += static_cast<double>(a[row][k]) * b[column][k];
      product.d[i] = cut_off(sum);
    }
  }
}

}  // namespace

void wgmma_wait_group(unsigned pending_groups, Site site) {
  Thread* const thread = current;
  Block& block = *thread->block;
  const unsigned group = thread->place.rank / kWarpgroup;
  if ((group + 1) * kWarpgroup > threads_per_block()) {
    device_fail("wgmma at %s:%d: the warp group is not whole", site.file, site.line);
  }
  thread->wgmma_fenced = false;
  block.warpgroups.resize(threads_per_block() / kWarpgroup);
  std::vector<Thread*>& waiting = block.warpgroups[group];
  if (!waiting.empty() && !(waiting.front()->site == site)) {
    device_fail("divergent wgmma.wait_group: at %s:%d, while others wait at %s:%d", site.file,
                site.line, waiting.front()->site.file, waiting.front()->site.line);
  }
  waiting.push_back(thread);
  if (waiting.size() < kWarpgroup) return block_current("wgmma.wait_group", site);

  Thread* threads[kWarpgroup];
  for (unsigned t = 0; t < kWarpgroup; ++t) threads[t] = &block.threads[group * kWarpgroup + t];
  std::vector<Wgmma>& products = threads[0]->wgmmas;
  for (const Thread* other : threads) {
    if (!std::equal(products.begin(), products.end(), other->wgmmas.begin(), other->wgmmas.end(),
                    [](const Wgmma& x, const Wgmma& y) {
                      return x.columns == y.columns && x.a == y.a && x.b == y.b && x.add == y.add &&
                             x.group == y.group && x.site == y.site;
                    })) {
      device_fail("wgmma: the threads of a warp group ask for different products, at %s:%d",
                  site.file, site.line);
    }
  }
  std::size_t done = 0;
  for (; done < products.size(); ++done) {
    if (products[done].group + pending_groups >= thread->wgmma_groups) break;
    multiply(threads, done);
  }
  for (Thread* other : threads) {
    other->wgmmas.erase(other->wgmmas.begin(),
                        other->wgmmas.begin() + static_cast<std::ptrdiff_t>(done));
  }
  waiting.pop_back();
  make_ready(waiting);
}

}  // namespace emu
