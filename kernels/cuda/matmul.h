#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda_queue.h"
#include "kernels/write.h"

namespace sidechannel::kernels {

// c [m, n] = a [m, k] b [k, n], row by row in memory. A transposed factor lies there as [k, m] or
// [n, k].
struct MatmulDims {
  std::int64_t m;
  std::int64_t n;
  std::int64_t k;
  bool transpose_a = false;
  bool transpose_b = false;
};

// The product by cuBLASLt, in the queue's precision; with a bias [n], which is added to each row,
// unless it is null. The same bits in every run. Which algorithm is best for a product is asked
// once in a process.
//
// `workspace` is a part of the operation's scratch memory, 256-byte aligned, of as many bytes as
// matmul_workspace says. That depends on the alignment of the addresses; scratch memory that is not
// there yet can be given as null.
void matmul(CudaQueue& queue, const char* operation, const MatmulDims& dims, const float* a,
            const float* b, const float* bias, GradOut<float> c, void* workspace);
std::size_t matmul_workspace(CudaQueue& queue, const char* operation, const MatmulDims& dims,
                             const float* a, const float* b, const float* bias, const float* c);

}  // namespace sidechannel::kernels
