// One bug each. Where the emulator must find it, and by which check, is in bugs_test.cpp.

#include <cooperative_groups.h>

#include <memory>
#include <stdexcept>
#include <string>

#include "kernels.h"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/launch.h"

namespace sidechannel::test {
namespace {

namespace cg = cooperative_groups;
using kernels::launch;
using kernels::Launch;
using kernels::device::dynamic_shared;
using kernels::device::static_shared;

constexpr unsigned kThreads = 64;

struct Values {
  float v[kThreads];
};
struct TwoArrays {
  float a[kThreads];
  float b[kThreads];
};
struct TooLarge {
  float v[12289];  // 4 bytes more than 48 KiB
};
struct Pointer {
  const float* p;
};

__global__ void missing_barrier(float* x) {
  Values& s = static_shared<Values>();
  s.v[threadIdx.x] = x[threadIdx.x];
  x[threadIdx.x] = s.v[(threadIdx.x + 1) % kThreads];
}

__global__ void missing_second_barrier(float* x) {
  Values& s = static_shared<Values>();
  for (int i = 0; i < 2; ++i) {
    s.v[threadIdx.x] = x[threadIdx.x] + static_cast<float>(i);
    __syncthreads();
    x[threadIdx.x] = s.v[(threadIdx.x + 1) % kThreads];
  }
}

__global__ void divergent_barrier(float* x) {
  Values& s = static_shared<Values>();
  if (threadIdx.x < 32) {
    s.v[threadIdx.x] = 1;
    __syncthreads();
  } else {
    s.v[threadIdx.x] = 2;
    __syncthreads();
  }
  x[threadIdx.x] = s.v[kThreads - 1 - threadIdx.x];
}

__global__ void early_return(float* x) {
  Values& s = static_shared<Values>();
  if (threadIdx.x >= 40) return;
  s.v[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = s.v[39 - threadIdx.x];
}

__global__ void uninitialized_shared(float* x) {
  Values& s = static_shared<Values>();
  if (threadIdx.x < kThreads / 2) s.v[threadIdx.x] = 1;
  __syncthreads();
  x[threadIdx.x] = s.v[threadIdx.x] + 1;
}

__global__ void shared_overflow(float* x) {
  Values& s = static_shared<Values>();
  s.v[threadIdx.x + 1] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = s.v[threadIdx.x > 0 ? threadIdx.x : 1];
}

__global__ void global_overflow(float* x) {
  x[threadIdx.x + 256 - kThreads + 1] = 0;
}

__global__ void shuffle_from_unnamed_lane(float* x) {
  if (threadIdx.x % 32 < 16) {
    x[threadIdx.x] = __shfl_down_sync(0x0000ffffu, x[threadIdx.x], 8);
  }
}

__global__ void full_mask_in_divergent_code(float* x) {
  if (threadIdx.x % 32 < 16) {
    x[threadIdx.x] = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
  }
}

// As it was written when the lanes of a warp ran in lockstep.
__global__ void warp_synchronous(float* x) {
  Values& s = static_shared<Values>();
  s.v[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if (threadIdx.x < 32) {
    for (unsigned distance = 32; distance > 0; distance /= 2) {
      s.v[threadIdx.x] += s.v[threadIdx.x + distance];
    }
  }
  __syncthreads();
  x[threadIdx.x] = s.v[0];
}

__global__ void missing_copy_wait(float* x) {
  float* const s = dynamic_shared<float>();
  emu::cp_async(s + threadIdx.x, x + threadIdx.x, 4, 4);
  emu::cp_async_commit();
  __syncthreads();
  x[threadIdx.x] = s[threadIdx.x] * 2;
  emu::cp_async_wait(0);
}

__global__ void forgotten_copy(float* x) {
  emu::cp_async(dynamic_shared<float>() + threadIdx.x, x + threadIdx.x, 4, 4);
  emu::cp_async_commit();
}

__global__ void unrounded_operand(float* x) {
  const std::uint32_t a[4] = {__float_as_uint(x[threadIdx.x]), 0, 0, 0};
  const std::uint32_t b[2] = {0, 0};
  float d[4] = {};
  emu::mma_m16n8k8_tf32(d, a, b);
  x[threadIdx.x] = d[0];
}

__global__ void cluster_leaves_early(float* x) {
  Values& s = static_shared<Values>();
  const cg::cluster_group cluster = cg::this_cluster();
  const unsigned rank = cluster.block_rank();
  s.v[threadIdx.x] = static_cast<float>(rank);
  cluster.sync();
  const float* const next = cluster.map_shared_rank(s.v, (rank + 1) % cluster.num_blocks());
  for (unsigned i = 0; i < rank; ++i) __syncthreads();  // the first block is soon done
  x[blockIdx.x * kThreads + threadIdx.x] = next[threadIdx.x];
}

__global__ void race_of_blocks(float* x) {
  x[0] += 1;
}

__global__ void uninitialized_global(float* x) {
  x[threadIdx.x] = x[128 + threadIdx.x] * 0;
}

__global__ void overflow_inside_struct(float* x) {
  TwoArrays& s = static_shared<TwoArrays>();
  s.b[threadIdx.x] = 1;
  s.a[threadIdx.x + 1] = x[threadIdx.x];
  __syncthreads();
  x[threadIdx.x] = s.a[threadIdx.x > 0 ? threadIdx.x : 1] + s.b[0];
}

__global__ void misaligned(float* x) {
  const float4 v = *reinterpret_cast<float4*>(x + 1 + 4 * (threadIdx.x % 8));
  x[kThreads + threadIdx.x] = v.x;
}

__global__ void host_pointer_in_struct(Pointer from, float* x) {
  x[threadIdx.x] = *from.p;
}

// Each half waits for the other at a barrier of its own.
__global__ void deadlock(float* x) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    cg::this_cluster().sync();
  }
  x[threadIdx.x] = 0;
}

__global__ void static_shared_too_large(float* x) {
  TooLarge& s = static_shared<TooLarge>();
  s.v[threadIdx.x] = 1;
  x[threadIdx.x] = s.v[threadIdx.x];
}

__global__ void trap(float* x) {
  if (x[threadIdx.x] > 0) __trap();
}

// No race in the sense of the language: but whoever comes last decides.
__global__ void order_dependent(float* x) {
  atomicExch(x, static_cast<float>(threadIdx.x));
}

}  // namespace

void run_buggy(CudaQueue& queue, const std::string& kernel, float* x) {
  const Launch one_block = {1, kThreads, kThreads * sizeof(float)};
  struct Case {
    const char* name;
    void (*kernel)(float*);
    Launch how;
  };
  const Case cases[] = {
      {"missing_barrier", missing_barrier, one_block},
      {"missing_second_barrier", missing_second_barrier, one_block},
      {"divergent_barrier", divergent_barrier, one_block},
      {"early_return", early_return, one_block},
      {"uninitialized_shared", uninitialized_shared, one_block},
      {"shared_overflow", shared_overflow, one_block},
      {"global_overflow", global_overflow, one_block},
      {"shuffle_from_unnamed_lane", shuffle_from_unnamed_lane, one_block},
      {"full_mask_in_divergent_code", full_mask_in_divergent_code, one_block},
      {"warp_synchronous", warp_synchronous, one_block},
      {"missing_copy_wait", missing_copy_wait, one_block},
      {"forgotten_copy", forgotten_copy, one_block},
      {"uninitialized_global", uninitialized_global, one_block},
      {"overflow_inside_struct", overflow_inside_struct, one_block},
      {"misaligned", misaligned, one_block},
      {"deadlock", deadlock, one_block},
      {"static_shared_too_large", static_shared_too_large, one_block},
      {"trap", trap, one_block},
      {"order_dependent", order_dependent, one_block},
      {"unrounded_operand", unrounded_operand, {1, 32}},
      {"cluster_leaves_early", cluster_leaves_early, {4, kThreads, 0, 4}},
      {"race_of_blocks", race_of_blocks, {4, 1}},
  };
  for (const Case& one : cases) {
    if (kernel == one.name) return launch(queue, one.name, one.kernel, one.how, x);
  }
  throw std::invalid_argument("there is no kernel " + kernel);
}

void launch_with_host_pointer_in_struct(CudaQueue& queue, float* x) {
  static const auto on_the_heap = std::make_unique<float>(1.0f);
  launch(queue, "host_pointer_in_struct", host_pointer_in_struct, {1, kThreads},
         Pointer{on_the_heap.get()}, x);
}

void launch_with_host_pointer(CudaQueue& queue, float* host) {
  launch(queue, "trap", trap, {1, kThreads}, host);
}

void launch_misconfigured(CudaQueue& queue, unsigned grid, unsigned block, std::size_t shared,
                          unsigned cluster, float* x) {
  launch(queue, "trap", trap, {grid, block, shared, cluster}, x);
}

}  // namespace sidechannel::test
