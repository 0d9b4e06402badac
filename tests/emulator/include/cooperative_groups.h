#pragma once

// The subset of cooperative groups that kernels may use: thread blocks, tiles of a warp, clusters.

#include "emu/device.h"

namespace cooperative_groups {

using emu::Site;

struct thread_block {
  void sync(Site site = Site::here()) const { __syncthreads(site); }
  unsigned thread_rank() const { return emu::self.rank; }
  unsigned size() const { return blockDim.x * blockDim.y * blockDim.z; }
  unsigned num_threads() const { return size(); }
  uint3 thread_index() const { return threadIdx; }
  uint3 group_index() const { return blockIdx; }
  dim3 dim_threads() const { return blockDim; }
};
inline thread_block this_thread_block() {
  return {};
}

template <unsigned kSize, class Parent = void>
struct thread_block_tile {
  static_assert(kSize >= 1 && kSize <= 32 && (kSize & (kSize - 1)) == 0);
  static unsigned first_lane() { return emu::self.lane & ~(kSize - 1); }
  static unsigned mask() {
    return kSize == 32 ? 0xffffffffu : ((1u << kSize % 32) - 1) << first_lane();
  }
  static constexpr unsigned size() { return kSize; }
  static constexpr unsigned num_threads() { return kSize; }
  unsigned thread_rank() const { return emu::self.lane % kSize; }
  unsigned meta_group_rank() const { return emu::self.rank / kSize; }
  unsigned meta_group_size() const { return (thread_block{}.size() + kSize - 1) / kSize; }
  void sync(Site site = Site::here()) const { __syncwarp(mask(), site); }
  template <class T>
  T shfl(T value, int source, Site site = Site::here()) const {
    return __shfl_sync(mask(), value, source, kSize, site);
  }
  template <class T>
  T shfl_down(T value, unsigned delta, Site site = Site::here()) const {
    return __shfl_down_sync(mask(), value, delta, kSize, site);
  }
  template <class T>
  T shfl_up(T value, unsigned delta, Site site = Site::here()) const {
    return __shfl_up_sync(mask(), value, delta, kSize, site);
  }
  template <class T>
  T shfl_xor(T value, unsigned lane_mask, Site site = Site::here()) const {
    return __shfl_xor_sync(mask(), value, static_cast<int>(lane_mask), kSize, site);
  }
  unsigned ballot(int predicate, Site site = Site::here()) const {
    return __ballot_sync(mask(), predicate, site) >> first_lane();
  }
  int any(int predicate, Site site = Site::here()) const { return ballot(predicate, site) != 0; }
  int all(int predicate, Site site = Site::here()) const {
    return __all_sync(mask(), predicate, site);
  }
};
template <unsigned kSize>
thread_block_tile<kSize, thread_block> tiled_partition(const thread_block&) {
  return {};
}
template <unsigned kSize, unsigned kParent, class Parent>
thread_block_tile<kSize, thread_block_tile<kParent, Parent>> tiled_partition(
    const thread_block_tile<kParent, Parent>&) {
  return {};
}

struct cluster_group {
  struct arrival_token {};
  void sync(Site site = Site::here()) const {
    emu::cluster_arrive(site);
    emu::cluster_wait(site);
  }
  arrival_token barrier_arrive(Site site = Site::here()) const {
    emu::cluster_arrive(site);
    return {};
  }
  void barrier_wait(arrival_token&& = {}, Site site = Site::here()) const {
    emu::cluster_wait(site);
  }
  unsigned block_rank() const { return emu::self.block_in_cluster; }
  unsigned num_blocks() const { return emu::grid_view.blocks_per_cluster; }
  unsigned num_threads() const { return num_blocks() * thread_block{}.size(); }
  unsigned thread_rank() const { return block_rank() * thread_block{}.size() + emu::self.rank; }
  dim3 dim_blocks() const { return emu::grid_view.cluster; }
  template <class T>
  T* map_shared_rank(T* p, unsigned rank) const {
    return static_cast<T*>(emu::map_shared_rank(p, rank));
  }
};
inline cluster_group this_cluster() {
  return {};
}

template <class Group>
void sync(const Group& group, Site site = Site::here()) {
  group.sync(site);
}

}  // namespace cooperative_groups
