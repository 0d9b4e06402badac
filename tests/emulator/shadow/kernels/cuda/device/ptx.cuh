#pragma once

// Emulated, in the place of the header of this name.

#include "emu/ptx.h"

namespace sidechannel::kernels::device::ptx {

inline void cp_async(float* shared, const float* global, bool inside,
                     emu::Site site = emu::Site::here()) {
  emu::cp_async(shared, global, 16, inside ? 16u : 0u, site);
}
inline void cp_async_commit_group() {
  emu::cp_async_commit();
}
template <int kPending>
void cp_async_wait_group() {
  emu::cp_async_wait(kPending);
}

// Threads reach it from the same line of a function, if from different calls of that.
template <int kThreads>
void bar_sync(emu::Site site = emu::Site::here()) {
  __syncthreads(site);
}

// Launches run one after the other.
inline void griddepcontrol_wait() {}
inline void griddepcontrol_launch_dependents() {}

// --- Hopper ---

inline void mbarrier_init(std::uint64_t* barrier, unsigned arrivals,
                          emu::Site site = emu::Site::here()) {
  emu::mbarrier_init(barrier, arrivals, site);
}
inline void fence_mbarrier_init() {}
inline void mbarrier_arrive(std::uint64_t* barrier, emu::Site site = emu::Site::here()) {
  emu::mbarrier_arrive(barrier, 0, site);
}
inline void mbarrier_arrive_expect_tx(std::uint64_t* barrier, unsigned bytes,
                                      emu::Site site = emu::Site::here()) {
  emu::mbarrier_arrive(barrier, bytes, site);
}
inline void mbarrier_wait(std::uint64_t* barrier, unsigned parity,
                          emu::Site site = emu::Site::here()) {
  emu::mbarrier_wait(barrier, parity, site);
}
inline unsigned cluster_ctarank() {
  return emu::self.block_in_cluster;
}
inline void barrier_cluster(emu::Site site = emu::Site::here()) {
  emu::cluster_arrive(site);
  emu::cluster_wait(site);
}
template <int kBlocks>
void cp_async_bulk(float* shared, const float* global, unsigned bytes, std::uint64_t* barrier,
                   emu::Site site = emu::Site::here()) {
  emu::cp_async_bulk(shared, global, bytes, barrier, (1u << kBlocks) - 1, site);
}
inline void fence_proxy_async() {
  emu::fence_proxy_async();
}
inline std::uint64_t wgmma_descriptor(const float* shared, unsigned next_k) {
  const auto address = static_cast<std::uint64_t>(reinterpret_cast<const unsigned char*>(shared) -
                                                  emu::own_shared());
  return address >> 4 | std::uint64_t{next_k >> 4} << 16 | std::uint64_t{128 >> 4} << 32;
}
inline void wgmma_fence() {
  emu::wgmma_fence();
}
template <int kSums>
void wgmma_m64k8_tf32(float (&d)[kSums], std::uint64_t a, std::uint64_t b, bool add,
                      emu::Site site = emu::Site::here()) {
  emu::wgmma_m64k8_tf32(d, 2 * kSums, a, b, add, site);
}
inline void wgmma_commit_group() {
  emu::wgmma_commit_group();
}
template <int kPending, int kSums>
void wgmma_wait_group(float (&)[kSums], emu::Site site = emu::Site::here()) {
  emu::wgmma_wait_group(kPending, site);
}

using emu::cvt_rna_tf32;
using emu::mma_m16n8k8_tf32;

}  // namespace sidechannel::kernels::device::ptx
