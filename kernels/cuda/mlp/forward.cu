// Perceptrons on tensor cores, the way forward, all of them in one launch: a block computes tiles
// of 128 rows, one after the other, from x to y. Between the layers a tile stays in shared memory;
// weights stream through it (device/mlp.cuh), across the borders of tiles, and so does the next
// tile's x. Of the last layer, which has one output, a lane multiplies what it has.
//
// Order of a hidden unit's sum: its bias, then 16 inputs after the other, of each the two steps of
// 8, whose sum the tensor core takes in an order of its own. Of y: a lane's eight units
// one after the other, a tree over the lanes of a row, then the four warps' and the bias.

#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/conv1d/choose.h"
#include "kernels/cuda/device/activation.cuh"
#include "kernels/cuda/device/shared.cuh"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/mlp/device/mlp.cuh"
#include "kernels/cuda/mlp/kernels.h"
#include "kernels/cuda/mlp/pack.cuh"

namespace sidechannel::kernels {
namespace {

using device::MlpPlane;
using device::MlpStage;

struct ForwardNetwork {
  const float *x, *b1, *b2, *w3, *b3;
};
struct ForwardArguments {
  int rows;
  int tiles;      // of a network
  int all_tiles;  // of all
  const MlpStage* packed;
  float* y;
  float* kept;                          // or null
  std::int64_t kept_floats, kept_rows;  // of a network
  ForwardNetwork at[kMostMlps];
};

template <int kIn>
struct ForwardMemory {
  MlpPlane x[kIn / 4];
  union {
    MlpPlane hidden[kMlpWidth / 4];
    float y[4][kMlpRows];  // of the warps' units
  };
  MlpStage ring[4];
};

__device__ __forceinline__ float4 load4_anywhere(const float* from) {
  return make_float4(from[0], from[1], from[2], from[3]);
}

// What sums begin with: each unit's bias.
__device__ __forceinline__ void begin_layer(device::MlpSums& sum, const float* bias,
                                            const device::MlpLane& of) {
  float4 b[2];
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    b[pair] = load4_anywhere(bias + 32 * (of.pair + pair) + 4 * of.g);
  }
  device::for_quads(sum, [&](int pair, int, int, auto value) {
    value(0) = b[pair].x, value(1) = b[pair].y, value(2) = b[pair].z, value(3) = b[pair].w;
  });
}

__device__ __forceinline__ void apply_relu(device::MlpSums& sum) {
  device::for_quads(sum, [&](int, int, int, auto value) {
#pragma unroll
    for (int i = 0; i < 4; ++i) value(i) = device::activate(Activation::kRelu, value(i));
  });
}

// Keeps which values are above 0; to: of the warp's first eight rows (MlpKept). Each quad of the
// warp is some lane's to write.
__device__ __forceinline__ void keep_above(device::MlpSums& sum, const device::MlpLane& of,
                                           uint4* to) {
  uint4 own = {};
  device::for_quads(sum, [&](int pair, int j, int e, auto value) {
    const bool is_own = of.lane == 16 * pair + 2 * j + e;
    const unsigned words[4] = {__ballot_sync(device::kAllLanes, value(0) > 0.0f),
                               __ballot_sync(device::kAllLanes, value(1) > 0.0f),
                               __ballot_sync(device::kAllLanes, value(2) > 0.0f),
                               __ballot_sync(device::kAllLanes, value(3) > 0.0f)};
    own.x = is_own ? words[0] : own.x;
    own.y = is_own ? words[1] : own.y;
    own.z = is_own ? words[2] : own.z;
    own.w = is_own ? words[3] : own.w;
  });
  to[16 * (of.lane / 2 % 8) + 8 * (of.lane % 2) + of.pair + of.lane / 16] = own;
}

template <int kIn, bool kKeeps>
__global__ void __launch_bounds__(device::kMlpThreads, 1)
    mlp_forward(const __grid_constant__ ForwardArguments p) {
  device::after_earlier_launches();
  constexpr int kInStages = kIn / device::kMlpStageInputs;
  auto& shared = *device::dynamic_shared<ForwardMemory<kIn>>();
  const device::MlpLane of;
  const int first = static_cast<int>(std::int64_t{p.all_tiles} * blockIdx.x / gridDim.x);
  const int last = static_cast<int>(std::int64_t{p.all_tiles} * (blockIdx.x + 1) / gridDim.x);
  const auto bring_x = [&](int tile) {
    device::bring_rows<kIn>(p.at[tile / p.tiles].x, p.rows, tile % p.tiles * kMlpRows, shared.x,
                            of.thread);
  };
  device::MlpStream<kInStages + device::kMlpWidthStages, 4> stream{p.packed, p.tiles, first, last};
  bring_x(first);
  stream.begin(shared.ring, of.thread);

  device::MlpSums sum;
#pragma unroll 1
  for (int tile = first; tile < last; ++tile) {
    const int network = tile / p.tiles;
    const int first_row = tile % p.tiles * kMlpRows;
    const ForwardNetwork& n = p.at[network];
    float* const kept = kKeeps ? p.kept + network * p.kept_floats : nullptr;
    const auto above = [&](int layer) {
      return reinterpret_cast<uint4*>(kept + p.kept_rows * (kMlpWidth + 8 * layer)) +
             (first_row + of.row) / 8 * 16;
    };

    begin_layer(sum, n.b1, of);
#pragma unroll 1
    for (int s = 0; s < kInStages; ++s) {
      const MlpStage& stage = stream.next(shared.ring, of.thread);
      float4 right[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        right[j] = device::to_tf32(shared.x[4 * s + of.t].place[of.right_place() + 8 * j]);
      }
      device::multiply(sum, stage, of, right);
    }
    __syncthreads();  // x has been read
    if (tile + 1 < last) bring_x(tile + 1);
    apply_relu(sum);
    if (kKeeps) keep_above(sum, of, above(0));
    device::for_quads(sum, [&](int pair, int j, int e, auto value) {
      const int plane = 8 * (of.pair + pair) + of.g;
      const int row = of.row + 8 * j + of.t + 4 * e;
      const float4 rounded = device::to_tf32(make_float4(value(0), value(1), value(2), value(3)));
      shared.hidden[plane].place[of.sums_place(e) + 8 * j] = rounded;
      if (kKeeps) {
        reinterpret_cast<float4*>(kept)[(first_row + row) * std::int64_t{kMlpWidth / 4} + plane] =
            rounded;
      }
    });

    begin_layer(sum, n.b2, of);
#pragma unroll 1
    for (int s = 0; s < device::kMlpWidthStages; ++s) {
      const MlpStage& stage = stream.next(shared.ring, of.thread);  // and h1, the first time
      float4 right[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        right[j] = shared.hidden[4 * s + of.t].place[of.right_place() + 8 * j];
      }
      device::multiply(sum, stage, of, right);
    }
    apply_relu(sum);
    if (kKeeps) keep_above(sum, of, above(1));

    float y[8][2] = {};
    float4 w3[2];
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      w3[pair] = load4_anywhere(n.w3 + 32 * (of.pair + pair) + 4 * of.g);
    }
    device::for_quads(sum, [&](int pair, int j, int e, auto value) {
      y[j][e] = fmaf(value(0), w3[pair].x, y[j][e]);
      y[j][e] = fmaf(value(1), w3[pair].y, y[j][e]);
      y[j][e] = fmaf(value(2), w3[pair].z, y[j][e]);
      y[j][e] = fmaf(value(3), w3[pair].w, y[j][e]);
    });
    __syncthreads();  // h1 has been read
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float of_warp = device::warp_sum<32, 4>(y[j][e]);
        if (of.g == 0) shared.y[of.pair / 2][of.row + 8 * j + of.t + 4 * e] = of_warp;
      }
    }
    __syncthreads();  // all warps' sums stand
    if (of.thread < kMlpRows && first_row + of.thread < p.rows) {
      float total = 0;
      for (const auto& of_units : shared.y) total += of_units[of.thread];
      p.y[std::int64_t{network} * p.rows + first_row + of.thread] = total + *n.b3;
    }
  }
}

template <int kIn>
void forward(CudaQueue& queue, const MlpForward<float>& call) {
  constexpr int kInStages = kIn / device::kMlpStageInputs;
  constexpr int kStages = kInStages + device::kMlpWidthStages;
  const std::size_t count = call.networks.size();
  const MlpKept kept(call.dims);
  ForwardArguments p = {};
  p.rows = narrow(call.dims.rows);
  p.tiles = narrow(kept.rows / kMlpRows);
  p.all_tiles = narrow(std::int64_t{p.tiles} * static_cast<std::int64_t>(count));
  p.y = call.y;
  p.kept = call.kept;
  p.kept_floats = kept.floats();
  p.kept_rows = kept.rows;
  auto* packed = static_cast<MlpStage*>(queue.scratch(count * kStages * sizeof(MlpStage)));
  p.packed = packed;
  MlpMatrices<2 * kMostMlps> matrices = {};
  for (std::size_t i = 0; i < count; ++i) {
    const MlpNetwork<float>& n = call.networks[i];
    p.at[i] = {n.x, n.b1, n.b2, n.w3, n.b3};
    MlpStage* to = packed + i * kStages;
    matrices.at[2 * i] = {n.w1, nullptr, to, kIn, 1, kInStages};
    matrices.at[2 * i + 1] = {n.w2, nullptr, to + kInStages, kMlpWidth, 1, device::kMlpWidthStages};
  }
  pack(queue, "mlp_forward: weights", matrices, 2 * count, device::kMlpWidthStages);
  Launch how;
  how.grid = Grid{std::min(p.all_tiles, Target(queue).multiprocessors())};
  how.block = dim3(device::kMlpThreads);
  how.dynamic_shared = sizeof(ForwardMemory<kIn>);
  launch(queue, "mlp_forward", call.kept ? mlp_forward<kIn, true> : mlp_forward<kIn, false>, how,
         p);
}

}  // namespace

std::size_t mlps_at_once(const CudaQueue& queue, const MlpForward<float>& call) {
  Needs needs;
  needs.precision = Precision::kTf32;
  needs.compute_capability = 80;
  needs.shared = sizeof(ForwardMemory<64>);  // the most that a kernel of these has
  const MlpDims& dims = call.dims;
  const bool fits = Target(queue).meets(needs) && dims.rows > 0 && dims.width == kMlpWidth &&
                    (dims.in == 32 || dims.in == 64) &&
                    std::all_of(call.networks.begin(), call.networks.end(),
                                [](const MlpNetwork<float>& n) { return aligned({n.x}); });
  return fits ? std::min(call.networks.size(), kMostMlps) : 0;
}

std::int64_t mlp_kept(const MlpDims& dims, std::size_t networks) {
  return MlpKept(dims).floats() * static_cast<std::int64_t>(networks);
}

void run(CudaQueue& queue, const MlpForward<float>& call) {
  call.dims.in == 64 ? forward<64>(queue, call) : forward<32>(queue, call);
}

}  // namespace sidechannel::kernels
