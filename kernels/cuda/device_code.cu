#include "kernels/cuda/device_code.h"

#include <cuda_runtime.h>

#include "kernels/cuda/device/dependency.cuh"

namespace sidechannel::kernels {
namespace {

// Compiled for the same architectures as every other kernel.
__global__ void empty() {
  device::after_earlier_launches();
}

}  // namespace

int device_code_error() {
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, empty);
}

}  // namespace sidechannel::kernels
