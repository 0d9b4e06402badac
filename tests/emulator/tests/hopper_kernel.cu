#include "hopper_kernel.h"

#include <cuda_runtime.h>

#include "kernels/cuda/device/mma.cuh"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/launch.h"

namespace sidechannel::test {
namespace {

namespace device = kernels::device;
namespace ptx = kernels::device::ptx;

constexpr int kHelpers = 64;
constexpr int kThreads = 128 + kHelpers;
constexpr unsigned kBytes = 64 * 16 * sizeof(float);  // of an operand

struct Shared {
  alignas(128) float a[4][64][4];  // [k / 4][row][k % 4]
  float b[4][65][4];
  std::uint64_t full;
};

// What the two phases of sums say: each product alone, and their sum.
__global__ void hopper_kernel(Bug bug, const float* a, const float* b, float* y) {
  Shared& shared = *device::dynamic_shared<Shared>();
  const int thread = static_cast<int>(threadIdx.x);
  const int helper = thread - 128;
  if (helper == 0 && bug != Bug::kNoBarrier) {
    ptx::mbarrier_init(&shared.full, kHelpers + 1);
    if (bug == Bug::kBarrierTwice) ptx::mbarrier_init(&shared.full, kHelpers + 1);
    if (bug == Bug::kBarrierOverwritten) shared.full = 0;
    ptx::fence_mbarrier_init();
  }
  if (bug != Bug::kBarrierNotShown) ptx::barrier_cluster();
  if (helper == 0) {
    const unsigned half = kBytes / 2;
    ptx::mbarrier_arrive_expect_tx(&shared.full, bug == Bug::kTooManyBytes ? half : kBytes);
    const int share = static_cast<int>(ptx::cluster_ctarank()) * 512;
    float on_the_host[4] = {};
    const float* from = bug == Bug::kMisalignedCopy    ? a + share + 1
                        : bug == Bug::kCopyFromTheHost ? on_the_host
                                                       : a + share;
    float* to = &shared.a[0][0][0] + share;
    if (bug == Bug::kCopyBeyondTheCluster) {
      ptx::cp_async_bulk<4>(to, from, half, &shared.full);
    } else if (bug != Bug::kTooFewBytes || share == 0) {
      ptx::cp_async_bulk<2>(to, from, half, &shared.full);
    }
  }
  if (helper >= 0) {
    const float* column = b + (static_cast<int>(blockIdx.x) * 64 + helper) * 16;
    for (int k = 0; k < 16; ++k) {
      shared.b[k / 4][helper][k % 4] =
          bug == Bug::kUnroundedOperand ? column[k] + 1e-6f : device::to_tf32(column[k]);
    }
    if (bug != Bug::kNoProxyFence) ptx::fence_proxy_async();
    if (bug == Bug::kTooFewArrivals && helper == 7) return;
    ptx::mbarrier_arrive(&shared.full);
    if (bug == Bug::kTooManyArrivals) ptx::mbarrier_arrive(&shared.full);
    return;
  }
  if (bug != Bug::kNoWait) ptx::mbarrier_wait(&shared.full, 0);
  if (bug != Bug::kNoWgmmaFence) ptx::wgmma_fence();
  float sum[32];
  for (int step = 0; step < 2; ++step) {
    const int other = bug == Bug::kDifferentOperands && thread == 77 ? 1 : 0;
    std::uint64_t of_a = ptx::wgmma_descriptor(shared.a[2 * step][0], sizeof shared.a[0]);
    if (bug == Bug::kSwizzle) of_a |= std::uint64_t{1} << 62;
    ptx::wgmma_m64k8_tf32(
        sum, of_a, ptx::wgmma_descriptor(shared.b[2 * step][other], sizeof shared.b[0]), step > 0);
    ptx::wgmma_commit_group();
  }
  if (bug != Bug::kNoWgmmaWait) {
    ptx::wgmma_wait_group<1>(sum);
    ptx::wgmma_wait_group<0>(sum);
  }
  const int row = thread / 32 * 16 + thread % 32 / 4;
  for (int i = 0; i < 32; ++i) {
    const int column = i / 4 * 8 + thread % 4 * 2 + i % 2;
    y[(static_cast<int>(blockIdx.x) * 64 + row + i % 4 / 2 * 8) * 64 + column] = sum[i];
  }
}

}  // namespace

void hopper_product(kernels::CudaQueue& queue, Bug bug, const float* a, const float* b, float* y) {
  kernels::Launch how;
  how.grid = kernels::Grid{2};
  how.block = dim3(kThreads);
  how.dynamic_shared = sizeof(Shared);
  how.cluster = dim3(2);
  launch(queue, "hopper_kernel", hopper_kernel, how, bug, a, b, y);
}

}  // namespace sidechannel::test
