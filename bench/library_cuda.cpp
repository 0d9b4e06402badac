// The library column on a GPU: products by cuBLASLt, by the algorithm that it calls best for each
// (of those that give the same bits in every run), in the queue's precision.

#include "bench/library.h"

namespace sidechannel::bench {

const char* library(CudaQueue& queue, const Product& call) {
  const auto& [dims, a, b, c] = call;
  const char* name = "cuBLASLt";
  void* workspace = queue.scratch(matmul_workspace(queue, name, dims, a, b, nullptr, c));
  matmul(queue, name, dims, a, b, nullptr, {c}, workspace);
  return name;
}

const char* library(CudaQueue& queue, const Copy& call) {
  queue.copy_on_device(call.y, call.x, sizeof(float) * static_cast<std::size_t>(call.size));
  return "cudaMemcpyAsync";
}

}  // namespace sidechannel::bench
