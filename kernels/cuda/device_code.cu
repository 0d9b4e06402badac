#include "kernels/cuda/device_code.h"

#include <cuda_runtime.h>

#include <cstdlib>
#include <string>

#include "kernels/cuda/launch.h"

namespace sidechannel::kernels {
namespace {

// Compiled for the same architectures as every other kernel.
__global__ void empty() {}

}  // namespace

int device_code_error() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, empty);
}

bool launches_overlap(const CudaQueue& queue) {
  static const char* const value = std::getenv("SIDECHANNEL_OVERLAP");
  return value != nullptr && std::string(value) == "on" && queue.info().compute_capability >= 90;
}

}  // namespace sidechannel::kernels
