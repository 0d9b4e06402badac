#pragma once

// Row products of h = 64 and 5 taps by wgmma, for bench_cuda (wgmma_rows.cu).

#include "kernels/cuda/conv1d_kernels.h"

namespace sidechannel::bench {

// w [5, 64, 64] of a layer, as a row product takes it, in the order of rows_by_wgmma, rounded.
void pack_for_wgmma(kernels::CudaQueue& queue, const float* w, bool flip, float* packed);

// product.w is packed, product.x rounded to TF32, nothing is accumulated. By clusters of 1, 2 or 4
// blocks, which divides the number of tiles of 152 positions.
void rows_by_wgmma(kernels::CudaQueue& queue, const kernels::RowProduct& product, int cluster);

}  // namespace sidechannel::bench
