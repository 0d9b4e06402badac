// A row product by wgmma (sm_90a), to be measured beside the kernels that are in use: h = 64, 5
// taps, operands rounded to TF32 before, weights in the order in which they are multiplied. The
// emulator does not have these instructions, so this is no kernel of the library.
//
// A block computes up to 152 positions of one sample x 64 columns. Everything that it reads is on
// its way to shared memory from the beginning: the weights by bulk copies, each of a cluster's
// blocks bringing its share for all, x by cp.async. 16 channels are multiplied as soon as they are
// there, 5 taps x 2 steps of m64n152k8: rows (m) are columns of y, columns (n) are positions. The
// next tap is the same operand, 16 bytes further on.

#include "bench/wgmma_rows.h"

#include <cuda_runtime.h>

#include "kernels/cuda/device/conv1d_stage.cuh"
#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/launch.h"

namespace sidechannel::bench {
namespace {

using kernels::CudaQueue;
using kernels::RowProduct;
namespace device = kernels::device;

constexpr int kChannels = 64;
constexpr int kTaps = 5;
constexpr int kPositions = 152;
constexpr int kThreads = 128;
constexpr int kStageChannels = 16;
constexpr int kStages = kChannels / kStageChannels;
constexpr int kStageWeights = kTaps * kStageChannels * kChannels;
constexpr int kSums = kPositions / 2;  // of a thread

struct Stage {
  float w[kStageWeights];  // [tap][step of 8][half][m][4 channels]
  device::Planes<kStageChannels, kPositions + kTaps - 1> x;
};
struct Shared {
  Stage stages[kStages];
  std::uint64_t barriers[kStages];
};

__device__ __forceinline__ unsigned address_of(const void* shared) {
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
}

// Rows of 16 bytes, eight of them 128 bytes on end; `next` bytes to the next four channels.
__device__ __forceinline__ std::uint64_t descriptor(unsigned address, unsigned next) {
  return static_cast<std::uint64_t>(address >> 4 & 0x3fffu) |
         static_cast<std::uint64_t>(next >> 4) << 16 | std::uint64_t{128 >> 4} << 32;
}

// d += a [64 x 8] * b [8 x 152]
__device__ __forceinline__ void multiply(float (&d)[kSums], std::uint64_t a, std::uint64_t b,
                                         bool add) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %78, 0; "
      "wgmma.mma_async.sync.aligned.m64n152k8.f32.tf32.tf32 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "
      "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, "
      "%34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, "
      "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, "
      "%66, %67, %68, %69, %70, %71, %72, %73, %74, %75"
      "}, %76, %77, p, 1, 1; }"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]),
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]),
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]),
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]),
        "+f"(d[63]), "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]),
        "+f"(d[70]), "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
      : "l"(a), "l"(b), "r"(add ? 1 : 0));
#endif
}

template <int kCluster>
__global__ void __launch_bounds__(kThreads, 1) wgmma_rows_kernel(RowProduct p) {
  device::after_earlier_launches();
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  Shared& shared = *device::dynamic_shared<Shared>();
  const device::RowTile tile(p, kPositions);
  const int thread = static_cast<int>(threadIdx.x);

  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(address_of(&shared.barriers[s])));
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async;" ::: "memory");
    for (int s = 0; s < kStages; ++s) {
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                       address_of(&shared.barriers[s])),
                   "r"(static_cast<unsigned>(kStageWeights * sizeof(float)))
                   : "memory");
    }
  }
  unsigned rank = 0;
  if constexpr (kCluster > 1) {
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
  }
  if (thread == 0) {
    constexpr int kShare = kStageWeights / kCluster;
    for (int s = 0; s < kStages; ++s) {
      const float* from = p.w + s * kStageWeights + rank * kShare;
      const unsigned to = address_of(shared.stages[s].w + rank * kShare);
      const unsigned barrier = address_of(&shared.barriers[s]);
      const auto bytes = static_cast<unsigned>(kShare * sizeof(float));
      if constexpr (kCluster > 1) {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
            "[%0], [%1], %2, [%3], %4;" ::"r"(to),
            "l"(from), "r"(bytes), "r"(barrier),
            "h"(static_cast<std::uint16_t>((1 << kCluster) - 1))
            : "memory");
      } else {
        asm volatile(
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
            "[%3];" ::"r"(to),
            "l"(from), "r"(bytes), "r"(barrier)
            : "memory");
      }
    }
  }
  __syncthreads();  // the barriers stand
#pragma unroll
  for (int s = 0; s < kStages; ++s) {
    shared.stages[s].x.for_own_chunks<kThreads, kChannels>(
        thread, p.x + std::int64_t{tile.n} * p.length * kChannels, p.length, s * kStageChannels,
        tile.first - p.offset, tile.count + kTaps - 1, device::BeginCopy());
    device::copy_async_commit();
  }
  // Rows g and g + 8 of a warp's 16 are neighbouring columns of y.
  const int g = thread % 32 / 4;
  const int t4 = thread % 4;
  const int column = thread / 32 * 16 + 2 * g;
  const float2 bias = p.bias != nullptr ? device::load2(p.bias + column) : make_float2(0, 0);

  float sum[kSums];
#pragma unroll
  for (int s = 0; s < kStages; ++s) {
    const Stage& stage = shared.stages[s];
    asm volatile(
        "{ .reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0; "
        "@done bra over; bra again; over: }" ::"r"(address_of(&shared.barriers[s]))
        : "memory");
    device::copy_async_wait<kStages - 1>(kStages - 1 - s);
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");  // copies to come as operands
    __syncthreads();                                              // these 16 channels are there
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    const unsigned w = address_of(stage.w);
    const unsigned x = address_of(stage.x.at);
    constexpr unsigned kPlane = decltype(stage.x)::kPitch * 16;
#pragma unroll
    for (int tap = 0; tap < kTaps; ++tap) {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        multiply(sum, descriptor(w + (2 * tap + step) * 2048, 1024),
                 descriptor(x + 2 * step * kPlane + tap * 16, kPlane), s + tap + step > 0);
      }
    }
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  }
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (float& one : sum) asm volatile("" : "+f"(one)::"memory");  // is read after the wait

  float* y = p.y + (std::int64_t{tile.n} * p.length_out + tile.first) * kChannels + column;
#pragma unroll
  for (int j = 0; j < kPositions / 8; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int position = 8 * j + 2 * t4 + e;
      if (position < tile.count) {
        *reinterpret_cast<float2*>(y + position * kChannels) =
            make_float2(sum[4 * j + e] + bias.x, sum[4 * j + 2 + e] + bias.y);
      }
    }
  }
#endif
}

// One thread for each weight.
__global__ void pack_kernel(const float* w, bool flip, float* packed) {
  device::after_earlier_launches();
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int m = i / 4 % 64;
  const int half = i / 256 % 2;
  const int step = i / 512 % 2;
  const int tap = i / 1024 % kTaps;
  const int channel = i / kStageWeights * 16 + step * 8 + half * 4 + i % 4;
  const int column = m / 16 * 16 + m % 8 * 2 + m % 16 / 8;
  packed[i] =
      device::to_tf32(flip ? w[((kTaps - 1 - tap) * kChannels + column) * kChannels + channel]
                           : w[(tap * kChannels + channel) * kChannels + column]);
}

template <int kCluster>
void run(CudaQueue& queue, const RowProduct& p) {
  kernels::Launch how;
  how.grid = dim3(p.batch * kernels::ceil_div(p.length_out, kPositions));
  how.block = dim3(kThreads);
  how.dynamic_shared = sizeof(Shared);
  how.cluster = dim3(kCluster);
  launch(queue, "rows by wgmma", wgmma_rows_kernel<kCluster>, how, p);
}

}  // namespace

void pack_for_wgmma(CudaQueue& queue, const float* w, bool flip, float* packed) {
  launch(queue, "pack for wgmma", pack_kernel,
         kernels::Launch{dim3(kStages * kStageWeights / 256), dim3(256)}, w, flip, packed);
}

void rows_by_wgmma(CudaQueue& queue, const RowProduct& product, int cluster) {
  switch (cluster) {
    case 1:
      return run<1>(queue, product);
    case 2:
      return run<2>(queue, product);
    default:
      return run<4>(queue, product);
  }
}

}  // namespace sidechannel::bench
