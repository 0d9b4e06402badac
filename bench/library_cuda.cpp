// The library column on a GPU: products by cuBLASLt, by the algorithm that it calls best for each
// (of those that give the same bits in every run), in the queue's precision.

#include "bench/library.h"

namespace sidechannel::bench {

void library(CudaQueue& queue, const Product& call) {
  const auto& [dims, a, b, c] = call;
  void* workspace = queue.scratch(matmul_workspace(queue, "product", dims, a, b, nullptr, c));
  matmul(queue, "product", dims, a, b, nullptr, {c}, workspace);
}

}  // namespace sidechannel::bench
