#pragma once

// PTX instructions that CUDA C++ has no word for: all inline assembly, and every look at
// __CUDA_ARCH__, stands here, in functions that are named like their instructions. The emulated
// build has a header of the same name and functions in tests/emulator/shadow/, which comes first
// there.

#include <cuda_runtime.h>

#include <cstdint>

namespace sidechannel::kernels::device::ptx {

// --- Copies from global to shared memory in the background ---------------------------------------
//
// From sm_80 on. Older GPUs copy on the spot: the same results, without the overlap.

// Begins to copy 16 bytes; writes zeros instead, and does not read, where `inside` is false. Both
// addresses are 16-byte aligned. The thread that copied may read its copy after
// cp_async_wait_group, the other threads after a barrier that follows.
__device__ __forceinline__ void cp_async(float* shared, const float* global, bool inside) {
#if __CUDA_ARCH__ >= 800
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
               "r"(inside ? 16u : 0u)
               : "memory");
#else
  *reinterpret_cast<float4*>(shared) =
      inside ? *reinterpret_cast<const float4*>(global) : make_float4(0, 0, 0, 0);
#endif
}

// Ends a group of copies: all that this thread began since the last call.
__device__ __forceinline__ void cp_async_commit_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the newest kPending groups of this thread are still under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// --- Barriers ---

// A barrier of all kThreads threads of a block, whole warps, which may reach it from different
// places of the kernel.
template <int kThreads>
__device__ __forceinline__ void bar_sync() {
  asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
}

// --- The order of launches -----------------------------------------------------------------------
//
// From sm_90 on; where launches do not overlap, nothing.

// Waits until all launches that this one depends on are done, and their memory is settled.
__device__ __forceinline__ void griddepcontrol_wait() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the launches that depend on this one begin, as soon as there is room.
__device__ __forceinline__ void griddepcontrol_launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// --- Tensor cores --------------------------------------------------------------------------------
//
// From sm_80 on. Kernels that need them are not chosen on older GPUs, and trap there.

// The bits of x rounded to TF32: 10 bits of mantissa, to nearest, ties away from zero.
__device__ __forceinline__ std::uint32_t cvt_rna_tf32(float x) {
#if __CUDA_ARCH__ >= 800
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
#else
  __trap();
  return __float_as_uint(x);
#endif
}

// d [16 x 8] += a [16 x 8] * b [8 x 8] by the 32 lanes of a warp, which hold of each what
// device/mma.cuh says.
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                                                 const std::uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// --- Hopper
// ---------------------------------------------------------------------------------------
//
// Of sm_90a, which runs on compute capability 9.0 and nothing else: elsewhere they trap.

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SIDECHANNEL_SM90A(...) asm volatile(__VA_ARGS__)
#else
#define SIDECHANNEL_SM90A(...) __trap()
#endif

// The address of shared memory, as PTX counts.
__device__ __forceinline__ unsigned shared_address(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Barriers of 8 bytes of shared memory. A phase is complete once so many threads have arrived, and
// all bytes have come that they expect. What a thread did before it arrived is seen by those that
// have waited.
__device__ __forceinline__ void mbarrier_init(std::uint64_t* barrier, unsigned arrivals) {
  SIDECHANNEL_SM90A("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
                    "r"(arrivals)
                    : "memory");
}
// Shows what was initialized to the cluster, and to the copies.
__device__ __forceinline__ void fence_mbarrier_init() {
  SIDECHANNEL_SM90A("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void mbarrier_arrive(std::uint64_t* barrier) {
  SIDECHANNEL_SM90A("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
                    : "memory");
}
__device__ __forceinline__ void mbarrier_arrive_expect_tx(std::uint64_t* barrier, unsigned bytes) {
  SIDECHANNEL_SM90A(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
// Waits until the phase of that parity is complete; the first one's is 0.
__device__ __forceinline__ void mbarrier_wait(std::uint64_t* barrier, unsigned parity) {
  SIDECHANNEL_SM90A(
      "{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; "
      "@!done bra again; }" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// The block's place in its cluster; a barrier of all threads of the cluster, whole warps.
__device__ __forceinline__ unsigned cluster_ctarank() {
  unsigned rank = 0;
  SIDECHANNEL_SM90A("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ __forceinline__ void barrier_cluster() {
  SIDECHANNEL_SM90A(
      "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}

// Begins to copy to the same place of the shared memory of each of the cluster's kBlocks blocks,
// whose barrier counts the bytes: a multiple of 16, as the addresses are.
template <int kBlocks>
__device__ __forceinline__ void cp_async_bulk(float* shared, const float* global, unsigned bytes,
                                              std::uint64_t* barrier) {
  if constexpr (kBlocks > 1) {
    SIDECHANNEL_SM90A(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(shared)),
        "l"(global), "r"(bytes), "r"(shared_address(barrier)),
        "h"(static_cast<std::uint16_t>((1 << kBlocks) - 1))
        : "memory");
  } else {
    SIDECHANNEL_SM90A(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
        "[%3];" ::"r"(shared_address(shared)),
        "l"(global), "r"(bytes), "r"(shared_address(barrier))
        : "memory");
  }
}

// What the thread wrote to shared memory may be an operand of wgmma, once others know of it.
__device__ __forceinline__ void fence_proxy_async() {
  SIDECHANNEL_SM90A("fence.proxy.async.shared::cta;" ::: "memory");
}

// An operand in shared memory: rows of 16 bytes, four numbers along k, eight of them 128 bytes on
// end and the next eight behind these; `next_k` bytes from four numbers along k to the next four.
__device__ __forceinline__ std::uint64_t wgmma_descriptor(const float* shared, unsigned next_k) {
  return std::uint64_t{shared_address(shared) >> 4} | std::uint64_t{next_k >> 4} << 16 |
         std::uint64_t{128 >> 4} << 32;
}

// Before the first product, and whenever something else has written d.
__device__ __forceinline__ void wgmma_fence() {
  SIDECHANNEL_SM90A("wgmma.fence.sync.aligned;" ::: "memory");
}

// d [64 x N] = a [64 x 8] * b [8 x N], + d where `add`, begun by 128 threads: four whole warps from
// a multiple of four on. b's rows in memory are its columns. With g = lane / 4 and t = lane % 4,
// warp w of the four holds
//
//   d[4 * j + 2 * h + e]   of (16 * w + g + 8 * h, 8 * j + 2 * t + e),   j < N / 8
//
// Operands lie in shared memory, rounded to TF32 already.
#define SIDECHANNEL_D32                                                                           \
  "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
      "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
      "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]),  \
      "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]),  \
      "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define SIDECHANNEL_D40                                                                          \
  SIDECHANNEL_D32, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), \
      "+f"(d[38]), "+f"(d[39])
#define SIDECHANNEL_D76                                                                          \
  SIDECHANNEL_D40, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), \
      "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), \
      "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), \
      "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), \
      "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), \
      "+f"(d[74]), "+f"(d[75])
#define SIDECHANNEL_R32                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SIDECHANNEL_R40 \
  SIDECHANNEL_R32       \
  ", "                  \
  "%32, %33, %34, %35, %36, %37, %38, %39"
#define SIDECHANNEL_R76                                                              \
  SIDECHANNEL_R40                                                                    \
  ", "                                                                               \
  "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, " \
  "%56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, " \
  "%72, %73, %74, %75"
#define SIDECHANNEL_WGMMA(columns, sums, a_at, b_at, add_at)                                       \
  __device__ __forceinline__ void wgmma_m64k8_tf32(float(&d)[sums], std::uint64_t a,               \
                                                   std::uint64_t b, bool add) {                    \
    SIDECHANNEL_SM90A("{ .reg .pred p; setp.ne.b32 p, " add_at                                     \
                      ", 0; "                                                                      \
                      "wgmma.mma_async.sync.aligned.m64n" columns                                  \
                      "k8.f32.tf32.tf32 {" SIDECHANNEL_R##sums "}, " a_at ", " b_at ", p, 1, 1; }" \
                      : SIDECHANNEL_D##sums                                                        \
                      : "l"(a), "l"(b), "r"(static_cast<int>(add)));                               \
  }
SIDECHANNEL_WGMMA("64", 32, "%32", "%33", "%34")
SIDECHANNEL_WGMMA("80", 40, "%40", "%41", "%42")
SIDECHANNEL_WGMMA("152", 76, "%76", "%77", "%78")
#undef SIDECHANNEL_WGMMA
#undef SIDECHANNEL_R76
#undef SIDECHANNEL_R40
#undef SIDECHANNEL_R32
#undef SIDECHANNEL_D76
#undef SIDECHANNEL_D40
#undef SIDECHANNEL_D32

// Ends a group of products: all that were begun since the last call.
__device__ __forceinline__ void wgmma_commit_group() {
  SIDECHANNEL_SM90A("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most the newest kPending groups are still under way. d is complete then: it is
// named, so that no read of it is moved before.
template <int kPending, int kSums>
__device__ __forceinline__ void wgmma_wait_group(float (&d)[kSums]) {
  SIDECHANNEL_SM90A("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#pragma unroll
  for (int i = 0; i < kSums; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
#undef SIDECHANNEL_SM90A

}  // namespace sidechannel::kernels::device::ptx
