// y[n, l, c] = a[n, l, c] + b[n, c], element by element: how threads map to elements is told in
// map.cuh. The way back to b is a sum over positions, in double:
//
//   db[n, c] = sum over l of dy[n, l, c]
//
// A block takes 32 neighbouring channels of a sample, which a warp reads at once. Its warps share
// the positions: warp r takes r, r + 8, ...; then the warps' sums are added one after the other.

#include "kernels/add.h"

#include <cuda_runtime.h>

#include "kernels/copy.h"
#include "kernels/cuda/device/warp.cuh"
#include "kernels/cuda/map.cuh"

namespace sidechannel::kernels {
namespace {

constexpr int kWarps = 8;

struct Sum {
  __device__ __forceinline__ float operator()(std::int64_t, float a, float b) const {
    return a + b;
  }
};

struct AddRow {
  AddDims dims;
  const float* b;

  __device__ __forceinline__ float operator()(std::int64_t i, float a) const {
    const std::int64_t row = i / dims.channels;
    return a + b[row / dims.length * dims.channels + i % dims.channels];
  }
};

__global__ void sum_positions(AddBackward<float> call, std::int64_t tiles) {
  device::after_earlier_launches();
  const AddDims& dims = call.dims;
  const std::int64_t n = blockIdx.x / tiles;
  const std::int64_t c = blockIdx.x % tiles * device::kWarpSize + threadIdx.x;
  const bool inside = c < dims.channels;
  double sum = 0;
  for (std::int64_t l = threadIdx.y; inside && l < dims.length; l += kWarps) {
    sum += static_cast<double>(call.dy[(n * dims.length + l) * dims.channels + c]);
  }
  sum = device::static_shared<device::WarpSums<kWarps>>().total(sum);
  if (inside && threadIdx.y == 0) {
    device::write(device::Pack<1>{{static_cast<float>(sum)}}, call.db, n * dims.channels + c);
  }
}

}  // namespace

void run(CudaQueue& queue, const AddForward<float>& call) {
  const AddDims& dims = call.dims;
  if (dims.length == 1) {
    return map(queue, "add_forward", dims.size(), Sum(), {call.y}, call.a, call.b);
  }
  map(queue, "add_forward", dims.size(), AddRow{dims, call.b}, {call.y}, call.a);
}

void run(CudaQueue& queue, const AddBackward<float>& call) {
  const AddDims& dims = call.dims;
  copy(queue, dims.size(), call.dy, call.da);
  if (!call.db.data) return;
  if (dims.length == 1) return copy(queue, dims.size(), call.dy, call.db);
  const std::int64_t tiles = ceil_div(dims.channels, std::int64_t{device::kWarpSize});
  launch(queue, "add_backward", sum_positions,
         Launch{dims.batch * tiles, dim3(device::kWarpSize, kWarps)}, call, tiles);
}

}  // namespace sidechannel::kernels
