#pragma once

// The subset of cooperative groups that kernels may use: thread blocks, tiles of a warp, clusters.

#include "emu/device.h"

namespace cooperative_groups {

using emu::Site;

struct thread_block {
  void sync(Site site = Site::here()) const { __syncthreads(site); }
  unsigned thread_rank() const { return emu::self.rank; }
  unsigned size() const { return blockDim.x * blockDim.y * blockDim.z; }
};
inline thread_block this_thread_block() {
  return {};
}

template <unsigned kSize>
struct thread_block_tile {
  static_assert(kSize >= 1 && kSize <= 32 && (kSize & (kSize - 1)) == 0);
  static unsigned first_lane() { return emu::self.lane & ~(kSize - 1); }
  static unsigned mask() {
    return kSize == 32 ? 0xffffffffu : ((1u << kSize % 32) - 1) << first_lane();
  }
  static constexpr unsigned size() { return kSize; }
  unsigned thread_rank() const { return emu::self.lane % kSize; }
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
};
template <unsigned kSize>
thread_block_tile<kSize> tiled_partition(const thread_block&) {
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
  template <class T>
  T* map_shared_rank(T* p, unsigned rank) const {
    return static_cast<T*>(emu::map_shared_rank(p, rank));
  }
};
inline cluster_group this_cluster() {
  return {};
}

}  // namespace cooperative_groups
