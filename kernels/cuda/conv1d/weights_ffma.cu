// Parameter gradients of conv1d in fp32: C_in = C_out = h, 3 or 5 taps, first stage. The problem is
// defined in kernels.h.
//
//   dw[t, ci, co] = sum over positions l of x[l + t - padding, ci] * dy[l, co]
//
// A block sums a slice of h / 2 input channels x all h output channels x all taps over one split:
// grid.x counts slices, grid.y splits. Chunks of 64 positions are copied to shared memory, each
// while the one before is summed. The block's threads form kGroups groups: each has all of the
// slice's sums in registers, 16 * taps a thread (2 neighbouring ci x 8 co, 4 neighbours and the
// same h / 2 further on, x all taps), and takes its share of neighbouring positions of every chunk;
// their inputs slide through a window of registers. The bias's sums are taken by the blocks of the
// first slice, each thread's from what it copied itself.
//
// Order of a sum: position by position in a group, then the groups one after the other. Of the
// bias: in a thread as it copied, then the threads one after the other.

#include <cuda_runtime.h>

#include "kernels/cuda/conv1d/device/index.cuh"
#include "kernels/cuda/conv1d/device/stage.cuh"
#include "kernels/cuda/conv1d/kernels.h"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/launch.h"

namespace sidechannel::kernels {
namespace {

using device::load2;
using device::load4;
using device::store4;

constexpr int kChunk = 64;
constexpr int kStep = 4;  // positions between two shifts of the window

template <int kHidden, int kOfTaps>
struct Shape {
  static constexpr int kChannels = kHidden;
  static constexpr int kTaps = kOfTaps;
  static constexpr int kSlice = kHidden / 2;
  static constexpr int kSums = 16 * kTaps;  // of a thread
  static constexpr int kGroupThreads = kTaps * kSlice * kHidden / kSums;
  static constexpr int kGroups = kHidden == 64 ? 2 : 4;
  static constexpr int kThreads = kGroupThreads * kGroups;
  static constexpr int kShare = kChunk / kGroups;  // positions of a group
  static constexpr int kQuads = kHidden / 8;       // threads of a group with the same ci
};

template <class S>
struct Stage {
  device::Planes<S::kSlice, kChunk + S::kTaps - 1> x;
  device::Planes<S::kChannels, kChunk> dy;
};

// What the shared memory is used for: two stages, in the end the sums of one group, and the bias's
// of each thread.
template <class S>
union Shared {
  Stage<S> stages[2];
  struct {
    float group[S::kSums][S::kGroupThreads];
    float bias[S::kThreads][4];
  } ending;
};

// Adds the group's share of a chunk of `count` positions.
template <class S>
__device__ __forceinline__ void add(const Stage<S>& stage, int group, int ci, int co, int count,
                                    float (&sum)[S::kTaps][2][8]) {
  const int begin = group * S::kShare;
  const int end = min(begin + S::kShare, count);
  const auto load = [&](int l) { return load2(&stage.x.at[ci / 4][l][ci % 4]); };
  constexpr int kKept = S::kTaps - 1;  // positions that the next step needs, too
  float2 x[kStep + kKept];
#pragma unroll
  for (int i = 0; i < kKept; ++i) x[kStep + i] = load(begin + i);
#pragma unroll 1
  for (int l = begin; l < end; l += kStep) {
#pragma unroll
    for (int i = 0; i < kKept; ++i) x[i] = x[kStep + i];
#pragma unroll
    for (int i = 0; i < kStep; ++i) x[kKept + i] = load(l + kKept + i);
#pragma unroll
    for (int i = 0; i < kStep; ++i) {
      // Beyond `count`, where the last step may reach, dy is staged as zeros.
      const float4 low = load4(stage.dy.at[co / 4][l + i]);
      const float4 high = load4(stage.dy.at[S::kQuads + co / 4][l + i]);
      const float dy[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
      for (int t = 0; t < S::kTaps; ++t) {
#pragma unroll
        for (int o = 0; o < 8; ++o) {
          sum[t][0][o] += x[i + t].x * dy[o];
          sum[t][1][o] += x[i + t].y * dy[o];
        }
      }
    }
  }
}

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1) ffma_weights_kernel(WeightSums p) {
  device::after_earlier_launches();
  constexpr int kChannels = S::kChannels, kTaps = S::kTaps;
  const int thread = static_cast<int>(threadIdx.x);
  const int group = thread / S::kGroupThreads;
  const int rank = thread % S::kGroupThreads;
  const int ci = rank / S::kQuads * 2;
  const int co = rank % S::kQuads * 4;
  const int first_ci = static_cast<int>(blockIdx.x) * S::kSlice;
  const bool with_bias = p.bias && blockIdx.x == 0;
  auto& shared = *device::dynamic_shared<Shared<S>>();

  const auto for_own_dy = [&](const device::Chunk& chunk, Stage<S>& stage, auto visit) {
    stage.dy.template for_own_chunks<S::kThreads, kChannels>(
        thread, p.dy + std::int64_t{chunk.n} * p.length_out * kChannels, p.length_out, 0,
        chunk.first, chunk.count, visit);
  };
  const auto begin_stage = [&](const device::Chunk& chunk, Stage<S>& stage) {
    stage.x.template for_own_chunks<S::kThreads, kChannels>(
        thread, p.x + std::int64_t{chunk.n} * p.length * kChannels, p.length, first_ci,
        chunk.first - p.padding, chunk.count + kTaps - 1, device::BeginCopy());
    for_own_dy(chunk, stage, device::BeginCopy());
    device::ptx::cp_async_commit_group();
  };

  float sum[kTaps][2][8] = {};
  float bias[4] = {};
  const device::Chunks chunks(p, static_cast<int>(blockIdx.y));
  begin_stage(device::Chunk(p, chunks.begin), shared.stages[0]);
#pragma unroll 1
  for (int index = chunks.begin, s = 0; index < chunks.end; ++index, s ^= 1) {
    if (index + 1 < chunks.end) {
      begin_stage(device::Chunk(p, index + 1), shared.stages[s ^ 1]);
      device::ptx::cp_async_wait_group<1>();
    } else {
      device::ptx::cp_async_wait_group<0>();
    }
    Stage<S>& stage = shared.stages[s];
    const device::Chunk chunk(p, index);
    if (with_bias) {
      for_own_dy(chunk, stage, [&bias](int, const float* own, const float*, bool) {
        const float4 dy = load4(own);
        bias[0] += dy.x;
        bias[1] += dy.y;
        bias[2] += dy.z;
        bias[3] += dy.w;
      });
    }
    __syncthreads();  // the stage is complete, with what the other threads copied
    add(stage, group, ci, co, chunk.count, sum);
    __syncthreads();  // all have read it, before it is filled again
  }

  device::add_groups<S::kGroups, S::kSums>(&sum[0][0][0], group, rank, shared.ending.group);
  float* out = p.partial + blockIdx.y * p.row;
  if (group == 0) {
#pragma unroll
    for (int t = 0; t < kTaps; ++t) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float* row = out + (t * kChannels + first_ci + ci + c) * kChannels + co;
        const auto& s = sum[t][c];
        store4(row, s[0], s[1], s[2], s[3]);
        store4(row + kChannels / 2, s[4], s[5], s[6], s[7]);
      }
    }
  }
  if (!with_bias) return;  // the whole block
  using Dy = decltype(Stage<S>::dy);
#pragma unroll
  for (int e = 0; e < 4; ++e) shared.ending.bias[thread][e] = bias[e];
  __syncthreads();  // all threads' sums stand
  if (thread < kChannels) {
    float total = 0;
    for (int i = 0; i < S::kThreads; ++i) {
      if (Dy::own_quad(i) == thread / 4) total += shared.ending.bias[i][thread % 4];
    }
    out[p.weight_sums + thread] = total;
  }
}

template <class S>
void ffma_weights_of(CudaQueue& queue, const WeightSums& p) {
  Launch how;
  how.grid = Grid{S::kChannels / S::kSlice, p.splits};
  how.block = dim3(S::kThreads);
  how.dynamic_shared = sizeof(Shared<S>);
  launch(queue, "conv1d weight gradient, fp32", ffma_weights_kernel<S>, how, p);
}

template <class S>
constexpr WeightVariant variant(const char* name) {
  return {name,
          Needs::hidden(S::kChannels, S::kTaps, sizeof(Shared<S>)),
          kChunk,
          1,
          3,
          [](const WeightSums&) { return std::int64_t{S::kChannels / S::kSlice}; },
          ffma_weights_of<S>};
}

}  // namespace

const WeightVariant kFfmaWeights[4] = {
    variant<Shape<64, 5>>("fp32 h = 64"),
    variant<Shape<32, 5>>("fp32 h = 32"),
    variant<Shape<64, 3>>("fp32 h = 64, 3 taps"),
    variant<Shape<32, 3>>("fp32 h = 32, 3 taps"),
};

}  // namespace sidechannel::kernels
