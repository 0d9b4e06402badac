#include "kernels/cuda/device_code.h"

#include <cuda_runtime.h>

namespace sidechannel::kernels {
namespace {

// Compiled for the same architectures as every other kernel.
__global__ void empty() {}

}  // namespace

int device_code_error() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, empty);
}

}  // namespace sidechannel::kernels
