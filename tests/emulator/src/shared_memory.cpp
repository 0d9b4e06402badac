// Shared memory of the blocks of the running cluster, and asynchronous copies to it.
//
// A block's stretch begins with a redzone and the dynamic shared memory; statically declared
// objects follow as they are first used, each behind a redzone, at the same place in every block.

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "asan.h"
#include "emu/ptx.h"
#include "machine.h"

namespace emu {

unsigned char* shared_base = nullptr;
std::vector<SharedRange> shared_ranges;

namespace {

std::size_t used = 0;  // of each block's stretch

std::size_t round_up(std::size_t n, std::size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

bool in_shared(const Block& block, const void* p, std::size_t bytes) {
  const auto* const at = static_cast<const unsigned char*>(p);
  return at >= block.shared && at + bytes <= block.shared + used;
}

// A value that was never written is a NaN.
void poison(unsigned char* p, std::size_t bytes) {
  unpoison_for_asan(p, bytes);
  std::memset(p, 0xff, bytes);
}

}  // namespace

void begin_shared_memory(std::size_t dynamic_bytes, unsigned blocks) {
  if (shared_base == nullptr) {
    void* const p = mmap(nullptr, kSharedStride * kMaxBlocksPerCluster, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw Error("the emulator gets no memory to share among threads");
    shared_base = static_cast<unsigned char*>(p);
  }
  poison_for_asan(shared_base, kSharedStride * blocks);
  shared_ranges.assign(1, SharedRange{kRedzone, dynamic_bytes});
  used = kRedzone + round_up(dynamic_bytes, kRedzone) + kRedzone;
}

void poison_shared_memory(const Block& block) {
  for (const SharedRange& range : shared_ranges) poison(block.shared + range.offset, range.bytes);
}

void retire_shared_memory(const Block& block) {
  if (cluster.blocks.size() == 1) return;  // nobody is left who could read it
  poison_shared_memory(block);
  poison_for_asan(block.shared, kSharedStride);
}

void* dynamic_shared() {
  return current->block->shared + kRedzone;
}

void* static_shared(SharedKey& key, std::size_t bytes, std::size_t alignment) {
  if (key.launch != grid_view.launch) {  // its first use in this launch
    std::size_t total = bytes;
    for (std::size_t i = 1; i < shared_ranges.size(); ++i) total += shared_ranges[i].bytes;
    if (total > kSharedWithoutAsking) {
      device_fail("%zu bytes of static shared memory, and 48 KiB is the limit", total);
    }
    if (total + grid_view.dynamic_shared > device_model().shared_per_block) {
      device_fail(
          "%zu bytes of static and %zu of dynamic shared memory; the device has %zu a block", total,
          grid_view.dynamic_shared, device_model().shared_per_block);
    }
    key.launch = grid_view.launch;
    key.offset = round_up(used, std::max<std::size_t>(alignment, 16));
    shared_ranges.push_back({key.offset, bytes});
    used = key.offset + bytes + kRedzone;
    for (const Block& block : cluster.blocks) poison(block.shared + key.offset, bytes);
  }
  return current->block->shared + key.offset;
}

void* map_shared_rank(const void* p, unsigned block_in_cluster) {
  if (block_in_cluster >= cluster.blocks.size()) {
    device_fail("map_shared_rank: block %u of a cluster of %zu", block_in_cluster,
                cluster.blocks.size());
  }
  if (!in_shared(*current->block, p, 1)) {
    device_fail("map_shared_rank: %p is not in this block's shared memory", p);
  }
  const Block& block = cluster.blocks[block_in_cluster];
  if (block.exited > 0) {
    device_fail("map_shared_rank: threads of block %u of the cluster have already exited",
                block_in_cluster);
  }
  return block.shared + (static_cast<const unsigned char*>(p) - current->block->shared);
}

void note_atomic(const void* p, std::size_t bytes) {
  if (check_access != nullptr) check_access(p, bytes, true, true, __builtin_return_address(0));
}

// --- cp.async ------------------------------------------------------------------------------------

void cp_async(void* shared, const void* global, unsigned bytes, unsigned source_bytes, Site site) {
  if (device_model().compute_capability < 80) {
    device_fail("cp.async at %s:%d needs compute capability 8.0", site.file, site.line);
  }
  if (bytes != 4 && bytes != 8 && bytes != 16) {
    device_fail("cp.async at %s:%d of %u bytes", site.file, site.line, bytes);
  }
  const auto misaligned = [bytes](const void* p) {
    return reinterpret_cast<std::uintptr_t>(p) % bytes != 0;
  };
  if (source_bytes > bytes || misaligned(shared) || misaligned(global)) {
    device_fail("cp.async at %s:%d of %u bytes: misaligned address, or more source than bytes",
                site.file, site.line, bytes);
  }
  if (!in_shared(*current->block, shared, bytes)) {
    device_fail("cp.async at %s:%d: the destination is not in this block's shared memory",
                site.file, site.line);
  }
  if (source_bytes > 0 && !on_device(global)) {
    device_fail("cp.async at %s:%d: the source is not in global memory", site.file, site.line);
  }
  if (check_access != nullptr) {
    const void* const caller = __builtin_return_address(0);
    if (source_bytes > 0) check_access(global, source_bytes, false, false, caller);
    check_access(shared, bytes, true, false, caller);
  }
  // Who reads without waiting finds NaN.
  std::memset(shared, 0xff, bytes);
  current->copies.push_back({shared, global, bytes, source_bytes, current->copy_groups});
}

void cp_async_commit() {
  ++current->copy_groups;
}

void cp_async_wait(unsigned pending_groups) {
  std::vector<PendingCopy>& copies = current->copies;
  std::size_t done = 0;
  for (; done < copies.size(); ++done) {
    const PendingCopy& copy = copies[done];
    if (copy.group + pending_groups >= current->copy_groups) break;
    std::memset(copy.to, 0, copy.bytes);
    if (copy.source_bytes > 0) std::memcpy(copy.to, copy.from, copy.source_bytes);
    if (check_access != nullptr) {
      check_access(copy.to, copy.bytes, true, false, __builtin_return_address(0));
    }
  }
  copies.erase(copies.begin(), copies.begin() + static_cast<std::ptrdiff_t>(done));
}

// --- Tensor cores --------------------------------------------------------------------------------

std::uint32_t cvt_rna_tf32(float x) {
  if (device_model().compute_capability < 80) {
    device_fail("cvt.rna.tf32 needs compute capability 8.0");
  }
  const auto bits = bits_as<std::uint32_t>(x);
  if ((bits & 0x7f800000u) == 0x7f800000u) {  // infinity stays, NaN stays some NaN
    return (bits & 0x7fffffu) == 0 ? bits : 0x7fffe000u;
  }
  // Half of the last bit that is kept, added to the magnitude.
  return (bits + 0x1000u) & ~0x1fffu;
}

float cut_off(double x) {
  constexpr std::uint64_t kBeyond = (std::uint64_t{1} << 29) - 1;  // 53 bits, but for 24
  return static_cast<float>(bits_as<double>(bits_as<std::uint64_t>(x) & ~kBeyond));
}

namespace {

struct MmaArguments {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

using Row = double __attribute__((vector_size(8 * sizeof(double))));

void mma_of_warp(void** lanes, unsigned) {
  double a[16][8];
  Row b[8];
  Row d[16];
  for (int lane = 0; lane < 32; ++lane) {
    const auto& from = *static_cast<const MmaArguments*>(lanes[lane]);
    const int g = lane / 4;
    const int t = lane % 4;
    for (int i = 0; i < 4; ++i) a[g + 8 * (i % 2)][t + 4 * (i / 2)] = bits_as<float>(from.a[i]);
    for (int i = 0; i < 2; ++i) b[t + 4 * i][g] = bits_as<float>(from.b[i]);
    for (int i = 0; i < 4; ++i) d[g + 8 * (i / 2)][2 * t + i % 2] = from.d[i];
  }
  // The hardware's order and inner precision are not specified; that it cuts off what it returns,
  // as it does, biases long sums, and it may cut off terms as well.
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 8; ++k) d[row] += a[row][k] * b[k];
  }
  for (int lane = 0; lane < 32; ++lane) {
    float* const to = static_cast<MmaArguments*>(lanes[lane])->d;
    for (int i = 0; i < 4; ++i) {
      to[i] = cut_off(d[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2]);
    }
  }
}

}  // namespace

void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                      Site site) {
  if (device_model().compute_capability < 80) {
    device_fail("mma.sync with TF32 at %s:%d needs compute capability 8.0", site.file, site.line);
  }
  for (const std::uint32_t operand : {a[0], a[1], a[2], a[3], b[0], b[1]}) {
    if ((operand & 0x1fffu) == 0) continue;
    device_fail("mma.sync at %s:%d: operand 0x%08x is not rounded to TF32", site.file, site.line,
                operand);
  }
  MmaArguments arguments{d, a, b};
  warp_collective(0xffffffffu, &arguments, mma_of_warp, site, false);
}

}  // namespace emu
