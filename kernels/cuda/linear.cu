// Dense layers on rows: y = activation(x w^T + b), and back, with g what it lets through of dy:
//
//   dx = g w,  dw = g^T x,  db = sum of g's rows
//
// x [rows, in], w [out, in], y [rows, out], row by row in memory. The products are cuBLASLt's
// (matmul.h), and so is the bias, as the epilogue of a product, where no ReLU follows. Its ReLU
// epilogue turns NaN into 0, which would hide that a training has failed: bias and ReLU are then
// added in place, in one pass.
//
// A layer with one output, the last one of a probe, is no matrix product: a few multiplications for
// each element of x, which is read once. Its kernels are here.
//
// How threads map to elements, and the order of sums, is told in device/tile.cuh: positions are
// rows here, channels are columns.

#include "kernels/linear.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>

#include "kernels/cuda/column_totals.cuh"
#include "kernels/cuda/device/activation.cuh"
#include "kernels/cuda/device/tile.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/map.cuh"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/sizes.h"
#include "kernels/fill.h"

namespace sidechannel::kernels {
namespace {

using device::add_up;
using device::ColumnSums;
using device::Pack;
using device::Tile;

// y = activation(y + b) in place; grid (chunks, tiles of columns).
template <int kVec, int kItems>
__global__ void __launch_bounds__(kMaxTileThreads, 1)
    add_bias_and_activate(Tiling tiling, Activation activation, const float* b, float* y) {
  device::after_earlier_launches();
  const Tile<kVec, kItems> tile(tiling);
  if (!tile.inside(tiling)) return;
  const auto bias = Pack<kVec>::gather(b + tile.channel);
  tile.each([&](int, std::int64_t at) {
    auto value = Pack<kVec>::load(y + at);
    value.add(bias);
#pragma unroll
    for (int j = 0; j < kVec; ++j) value.v[j] = device::activate(activation, value.v[j]);
    value.store(y + at);
  });
}

// g = what the activation lets through of dy, unless y is null, and its sum over each tile's rows,
// unless partial is null; grid (chunks, tiles of columns). partial [out, chunks].
template <int kVec, int kItems>
__global__ void __launch_bounds__(kMaxTileThreads, 1)
    let_through_and_sum(Tiling tiling, Activation activation, const float* y, const float* dy,
                        float* g, ColumnPartial<1>* partial) {
  device::after_earlier_launches();
  const Tile<kVec, kItems> tile(tiling);
  Pack<kVec> sum[1] = {};
  tile.each([&](int, std::int64_t at) {
    auto value = Pack<kVec>::load(dy + at);
    if (y) {
      const auto behind = Pack<kVec>::load(y + at);
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        value.v[j] = device::activate_backward(activation, behind.v[j], value.v[j]);
      }
      value.store(g + at);
    }
    sum[0].add(value);
  });
  if (!partial) return;
  add_up(device::static_shared<ColumnSums<kVec, 1>>(), sum, 1, device::tile_channels<kVec>(tiling),
         device::Nothing(), [&](int c, float(&total)[1]) {
           const int channel = device::first_channel<kVec>() + c;
           partial[std::int64_t{channel} * tiling.chunks + tile.chunk] = {{total[0]}};
         });
}

// One output. `columns` threads side by side share a row of x, each with its columns c,
// c + columns, ...; then a tree over them.
template <int kVec>
__global__ void single_forward(std::int64_t rows, int in, Activation activation, const float* x,
                               const float* w, const float* b, float* y) {
  device::after_earlier_launches();
  const std::int64_t row = std::int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  const int columns = static_cast<int>(blockDim.x);
  float sum = 0;
  if (row < rows) {
    for (int c = static_cast<int>(threadIdx.x) * kVec; c < in; c += columns * kVec) {
      const auto values = Pack<kVec>::load(x + row * in + c);
      const auto weights = Pack<kVec>::gather(w + c);
#pragma unroll
      for (int j = 0; j < kVec; ++j) sum = fmaf(values.v[j], weights.v[j], sum);
    }
  }
  for (int distance = columns / 2; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(device::kAllLanes, sum, distance);
  }
  if (threadIdx.x != 0 || row >= rows) return;
  sum += *b;
  y[row] = device::activate(activation, sum);
}

// One output: dx = g w, and for each tile the sums over its rows of g x (for dw) and of g (for db),
// each element of x read once; grid (chunks, tiles of columns). A null dx or partial: nobody asked.
// partial [in, chunks].
template <int kVec, int kItems>
__global__ void __launch_bounds__(kMaxTileThreads, 1)
    single_backward(Tiling tiling, Activation activation, const float* x, const float* w,
                    const float* y, const float* dy, GradOut<float> dx, ColumnPartial<2>* partial) {
  device::after_earlier_launches();
  const Tile<kVec, kItems> tile(tiling);
  Pack<kVec> weights = {};
  if (tile.inside(tiling)) weights = Pack<kVec>::gather(w + tile.channel);
  Pack<kVec> sum[2] = {};
  tile.each([&](int i, std::int64_t at) {
    const std::int64_t row = tile.first + i * static_cast<int>(blockDim.y);
    float g = dy[row];
    if (activation != Activation::kNone) g = device::activate_backward(activation, y[row], g);
    if (partial) {
      const auto values = Pack<kVec>::load(x + at);
#pragma unroll
      for (int j = 0; j < kVec; ++j) {
        sum[0].v[j] = fmaf(g, values.v[j], sum[0].v[j]);
        sum[1].v[j] += g;
      }
    }
    if (dx.data) {
      Pack<kVec> product;
#pragma unroll
      for (int j = 0; j < kVec; ++j) product.v[j] = g * weights.v[j];
      device::write(product, dx, at);
    }
  });
  if (!partial) return;
  add_up(device::static_shared<ColumnSums<kVec, 2>>(), sum, 1, device::tile_channels<kVec>(tiling),
         device::Nothing(), [&](int c, float(&total)[2]) {
           const int channel = device::first_channel<kVec>() + c;
           partial[std::int64_t{channel} * tiling.chunks + tile.chunk] = {{total[0], total[1]}};
         });
}

// y where x has no columns.
struct BiasAlone {
  const float* b;
  std::int64_t out;
  Activation activation;

  __device__ __forceinline__ float operator()(std::int64_t i) const {
    return device::activate(activation, b[i % out]);
  }
};

void single_output(CudaQueue& queue, const LinearForward<float>& call) {
  constexpr int kThreads = 256;
  const LinearDims& dims = call.dims;
  const int vec = pack_size(dims.in, {call.x});
  int columns = 1;
  while (columns < 32 && columns * vec < dims.in) columns *= 2;
  const int rows = kThreads / columns;
  const Launch how{Grid{ceil_div(dims.rows, rows)},
                   dim3(static_cast<unsigned>(columns), static_cast<unsigned>(rows))};
  launch(queue, "linear_forward", vec == 4 ? single_forward<4> : single_forward<1>, how, dims.rows,
         narrow(dims.in), dims.activation, call.x, call.w, call.b, call.y);
}

void single_output(CudaQueue& queue, const LinearBackward<float>& call) {
  const LinearDims& dims = call.dims;
  const TilePlan plan =
      cut_in_chunks(1, dims.rows, dims.in, pack_size(dims.in, {call.x, call.dx.data}));
  const bool params = call.dw.data || call.db.data;
  auto* partial = params
                      ? static_cast<ColumnPartial<2>*>(queue.scratch(column_partial_bytes<2>(plan)))
                      : nullptr;
  with_constants<8>(plan, [&](auto kVec, auto kItems) {
    launch(queue, "linear_backward", single_backward<kVec(), kItems()>,
           Launch{plan.grid(), plan.block()}, plan.tiling, dims.activation, call.x, call.w, call.y,
           call.dy, call.dx, partial);
  });
  if (!params) return;
  launch_total_columns(queue, "linear_backward: parameters", plan, partial,
                       ColumnOutputs<2>{{call.dw, call.db}, {narrow(dims.in), 1}});
}

}  // namespace

void run(CudaQueue& queue, const LinearForward<float>& call) {
  const LinearDims& dims = call.dims;
  if (dims.rows * dims.out == 0) return;
  if (dims.in == 0) {
    return map(queue, "linear_forward", dims.rows * dims.out,
               BiasAlone{call.b, dims.out, dims.activation}, {call.y});
  }
  if (dims.out == 1) return single_output(queue, call);
  MatmulDims product{dims.rows, dims.out, dims.in};
  product.transpose_b = true;
  const char* name = "linear_forward";
  const bool activated = dims.activation != Activation::kNone;
  const float* bias = activated ? nullptr : call.b;
  void* workspace =
      queue.scratch(matmul_workspace(queue, name, product, call.x, call.w, bias, call.y));
  matmul(queue, name, product, call.x, call.w, bias, {call.y}, workspace);
  if (!activated) return;
  const TilePlan plan = cut_in_chunks(1, dims.rows, dims.out, pack_size(dims.out, {call.y}));
  with_constants<8>(plan, [&](auto kVec, auto kItems) {
    launch(queue, "linear_forward: bias and activation", add_bias_and_activate<kVec(), kItems()>,
           Launch{plan.grid(), plan.block()}, plan.tiling, dims.activation, call.b, call.y);
  });
}

void run(CudaQueue& queue, const LinearBackward<float>& call) {
  const LinearDims& dims = call.dims;
  GradOut<float> dx = call.dx, dw = call.dw;
  const GradOut<float> db = call.db;
  if (dims.rows * dims.out == 0) {
    add_nothing(queue, dims.rows * dims.in, dx);
    add_nothing(queue, dims.out * dims.in, dw);
    add_nothing(queue, dims.out, db);
    return;
  }
  if (dims.in == 0) dx.data = dw.data = nullptr;
  if (!dx.data && !dw.data && !db.data) return;
  if (dims.out == 1 && dims.in > 0) return single_output(queue, call);
  const bool activated = dims.activation != Activation::kNone;
  const char* name_dx = "linear_backward: input";
  const char* name_dw = "linear_backward: weight";
  const MatmulDims product_dx{dims.rows, dims.in, dims.out};
  MatmulDims product_dw{dims.out, dims.in, dims.rows};
  product_dw.transpose_a = true;
  const TilePlan plan =
      cut_in_chunks(1, dims.rows, dims.out, pack_size(dims.out, {call.dy, call.y}));

  // Scratch memory: the masked gradient, the parts of db, and the workspace of one product after
  // the other.
  const auto padded = [](std::size_t bytes) { return (bytes + 255) / 256 * 256; };
  const std::size_t masked_bytes =
      activated ? padded(static_cast<std::size_t>(dims.rows * dims.out) * sizeof(float)) : 0;
  const std::size_t partial_bytes = db.data ? padded(column_partial_bytes<1>(plan)) : 0;
  const float* unmasked = activated ? nullptr : call.dy;
  std::size_t workspace_bytes = 0;
  if (dx.data) {
    workspace_bytes =
        matmul_workspace(queue, name_dx, product_dx, unmasked, call.w, nullptr, dx.data);
  }
  if (dw.data) {
    workspace_bytes =
        std::max(workspace_bytes,
                 matmul_workspace(queue, name_dw, product_dw, unmasked, call.x, nullptr, dw.data));
  }
  auto* scratch =
      static_cast<std::byte*>(queue.scratch(masked_bytes + partial_bytes + workspace_bytes));
  auto* masked = reinterpret_cast<float*>(scratch);
  auto* partial = db.data ? reinterpret_cast<ColumnPartial<1>*>(scratch + masked_bytes) : nullptr;
  void* workspace = scratch + masked_bytes + partial_bytes;

  if (activated || db.data) {
    with_constants<8>(plan, [&](auto kVec, auto kItems) {
      launch(queue, "linear_backward: activation", let_through_and_sum<kVec(), kItems()>,
             Launch{plan.grid(), plan.block()}, plan.tiling, dims.activation,
             activated ? call.y : nullptr, call.dy, masked, partial);
    });
  }
  if (db.data) {
    launch_total_columns(queue, "linear_backward: bias", plan, partial,
                         ColumnOutputs<1>{{db}, {narrow(dims.out)}});
  }
  const float* g = activated ? masked : call.dy;
  if (dx.data) matmul(queue, name_dx, product_dx, g, call.w, nullptr, dx, workspace);
  if (dw.data) matmul(queue, name_dw, product_dw, g, call.x, nullptr, dw, workspace);
}

}  // namespace sidechannel::kernels
